// LogicalUnit: the commands that units of all kinds have. SPC-4, 6.
#include <algorithm>
#include <array>
#include <cstring>

#include "scsi/logical_unit.h"

namespace strata::scsi {
namespace {

constexpr std::string_view kVendor = "STRATA";
constexpr std::string_view kRevision = "1.0";
constexpr std::size_t kInquirySize = 96;
constexpr std::uint8_t kAllPages = 0x3f;

void put_text(std::span<std::uint8_t> bytes, std::size_t at, std::size_t size,
              std::string_view text) {
    for (std::size_t i = 0; i < size; ++i) {
        bytes[at + i] = i < text.size() ? static_cast<std::uint8_t>(text[i]) : ' ';
    }
}

/// A number that stands for `text`: FNV-1a.
std::uint64_t number_of(std::string_view text) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) {
        hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
    }
    return hash;
}

}  // namespace

std::span<const LogicalUnit::Command> LogicalUnit::common_commands() {
    using U = LogicalUnit;
    static constexpr std::array kTable{
        Command{Opcode::kTestUnitReady,
                kNoAction,
                Flag::kMedium,
                call<U, &U::test_unit_ready>,
                {0x00, 0, 0, 0, 0, 0x04}},
        Command{Opcode::kRequestSense,
                kNoAction,
                Flag::kAnyAttention,
                call<U, &U::request_sense>,
                {0x03, 0x01, 0, 0, 0xff, 0x04}},
        Command{Opcode::kInquiry,
                kNoAction,
                Flag::kAnyAttention,
                call<U, &U::inquiry>,
                {0x12, 0x01, 0xff, 0xff, 0xff, 0x04}},
        Command{Opcode::kModeSelect6,
                kNoAction,
                0,
                call<U, &U::mode_select>,
                {0x15, 0x11, 0, 0, 0xff, 0x04}},
        Command{Opcode::kModeSense6,
                kNoAction,
                0,
                call<U, &U::mode_sense>,
                {0x1a, 0x08, 0xff, 0xff, 0xff, 0x04}},
        Command{Opcode::kModeSelect10,
                kNoAction,
                0,
                call<U, &U::mode_select>,
                {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04}},
        Command{Opcode::kModeSense10,
                kNoAction,
                0,
                call<U, &U::mode_sense>,
                {0x5a, 0x08, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04}},
        Command{Opcode::kReportLuns,
                kNoAction,
                Flag::kAnyAttention,
                call<U, &U::report_luns>,
                {0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
        Command{Opcode::kMaintenanceIn,
                ServiceAction::kReportSupportedOpcodes,
                0,
                call<U, &U::report_opcodes>,
                {0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04}},
    };
    return kTable;
}

void LogicalUnit::request_sense(std::size_t at) {
    const Sense what = attentions_.empty() ? sense::kNone : attentions_.front();
    if (!attentions_.empty()) {
        attentions_.erase(attentions_.begin());
    }
    const std::uint64_t allocation = cdb_field(at, 4, 1);
    if ((cdb(at)[1] & 1) != 0) {  // in descriptor format
        const std::array<std::uint8_t, 8> bytes{0x72, static_cast<std::uint8_t>(what.key),
                                                what.code, what.qualifier};
        reply(at, bytes, allocation);
        return;
    }
    reply(at, failure(what, std::nullopt).sense, allocation);
}

void LogicalUnit::inquiry(std::size_t at) {
    const bool vital = (cdb(at)[1] & 1) != 0;
    const std::uint8_t page = cdb(at)[2];
    const std::uint64_t allocation = cdb_field(at, 3, 2);
    if (!vital) {
        if (page != 0 || (cdb(at)[1] & 2) != 0) {
            fail(at, sense::kInvalidField);
        } else {
            reply(at, standard_inquiry(), allocation);
        }
        return;
    }
    const std::vector<std::uint8_t> body = page_body(page);
    if (body.empty()) {
        fail(at, sense::kInvalidField);
        return;
    }
    std::vector<std::uint8_t> data{peripheral(), page, 0, 0};
    put_be(data, 2, 2, body.size());
    data.insert(data.end(), body.begin(), body.end());
    reply(at, data, allocation);
}

std::vector<std::uint8_t> LogicalUnit::standard_inquiry() const {
    std::vector<std::uint8_t> data(kInquirySize);
    data[0] = peripheral();
    data[1] = removable() ? 0x80 : 0;
    data[2] = 0x06;  // SPC-4
    data[3] = 0x12;  // HISUP, this format
    data[4] = static_cast<std::uint8_t>(kInquirySize - 5);
    data[7] = 0x02;  // CMDQUE
    put_text(data, 8, 8, kVendor);
    put_text(data, 16, 16, product());
    put_text(data, 32, 4, kRevision);
    std::size_t place = 58;
    for (const std::uint16_t version : versions()) {
        put_be(data, place, 2, version);
        place += 2;
    }
    return data;
}

std::vector<std::uint8_t> LogicalUnit::page_body(std::uint8_t page) const {
    switch (page) {
        case 0x00: {
            std::vector<std::uint8_t> known{0x00, 0x80, 0x83};
            known.insert(known.end(), vpd_pages().begin(), vpd_pages().end());
            return known;
        }
        case 0x80: {
            std::vector<std::uint8_t> text(std::max<std::size_t>(serial_.size(), 4));
            put_text(text, 0, text.size(), serial_);
            return text;
        }
        case 0x83:
            return identification();
        default:
            return vpd_page(page);
    }
}

// SPC-4, 7.8.6: a T10 vendor designator, and a locally assigned NAA one.
std::vector<std::uint8_t> LogicalUnit::identification() const {
    std::vector<std::uint8_t> data(4 + 8 + serial_.size());
    data[0] = 0x02;  // ASCII
    data[1] = 0x01;  // of the unit; T10 vendor id
    data[3] = static_cast<std::uint8_t>(8 + serial_.size());
    put_text(data, 4, 8, kVendor);
    put_text(data, 12, serial_.size(), serial_);
    const std::size_t place = data.size();
    data.resize(place + 12);
    data[place] = 0x01;  // binary
    data[place + 1] = 0x03;
    data[place + 3] = 8;
    put_be(data, place + 4, 8, (number_of(serial_) >> 4) | (std::uint64_t{3} << 60));
    return data;
}

void LogicalUnit::report_luns(std::size_t at) {
    const std::uint8_t which = cdb(at)[2];
    const std::uint64_t allocation = cdb_field(at, 6, 4);
    if (which > 2 || allocation < 16) {
        fail(at, sense::kInvalidField);
        return;
    }
    const std::size_t count = which == 1 ? 0 : luns_.size();  // 1: well-known units only
    std::vector<std::uint8_t> data(8 + 8 * count);
    put_be(data, 0, 4, 8 * count);
    for (std::size_t i = 0; i < count; ++i) {
        // Peripheral addressing to 255, flat space addressing above. SAM-5, 4.7.7.
        put_be(data, 8 + 8 * i, 2, luns_[i] < 256 ? luns_[i] : luns_[i] | 0x4000);
    }
    std::erase(attentions_, sense::kLunsChanged);
    reply(at, data, allocation);
}

std::vector<std::uint8_t> LogicalUnit::pages_for_mode(std::uint8_t page,
                                                      std::uint8_t control) const {
    std::vector<std::uint8_t> data;
    for (const std::uint8_t known : mode_pages()) {
        if (page != kAllPages && page != known) {
            continue;
        }
        std::vector<std::uint8_t> body = mode_page(known);
        if (control == 1) {  // what can be changed: nothing
            std::fill(body.begin() + 2, body.end(), std::uint8_t{0});
        }
        data.insert(data.end(), body.begin(), body.end());
    }
    return data;
}

void LogicalUnit::mode_sense(std::size_t at) {
    const auto bytes = cdb(at);
    const bool ten = bytes[0] == Opcode::kModeSense10;
    const std::uint8_t control = bytes[2] >> 6;
    const std::uint8_t subpage = bytes[3];
    const std::uint64_t allocation = ten ? cdb_field(at, 7, 2) : cdb_field(at, 4, 1);
    if (control == 3) {
        fail(at, sense::kSavingNotSupported);
        return;
    }
    const std::vector<std::uint8_t> pages = pages_for_mode(bytes[2] & 0x3f, control);
    if (pages.empty() || (subpage != 0 && subpage != 0xff)) {
        fail(at, sense::kInvalidField);
        return;
    }
    const bool descriptor = (bytes[1] & 0x08) == 0 && kind() == DeviceKind::Disk;
    const std::size_t header = ten ? 8 : 4;
    std::vector<std::uint8_t> data(header + (descriptor ? 8 : 0));
    data[ten ? 3 : 2] = mode_parameter();
    data[ten ? 7 : 3] = descriptor ? 8 : 0;
    if (descriptor) {
        put_be(data, header, 4, std::min<std::uint64_t>(blocks(), 0xffffffff));
        put_be(data, header + 5, 3, block_size());
    }
    data.insert(data.end(), pages.begin(), pages.end());
    const std::size_t length = ten ? 2 : 1;
    put_be(data, 0, length, data.size() - length);
    reply(at, data, allocation);
}

// Nothing can be changed, so all that it may say is what is the case.
void LogicalUnit::mode_select(std::size_t at) {
    const auto bytes = cdb(at);
    const bool ten = bytes[0] == Opcode::kModeSelect10;
    const std::size_t size = ten ? cdb_field(at, 7, 2) : cdb_field(at, 4, 1);
    const std::size_t header = ten ? 8 : 4;
    if ((bytes[1] & 0x01) != 0 || (bytes[1] & 0x10) == 0) {  // save pages; not in page format
        fail(at, sense::kInvalidField);
        return;
    }
    const auto sent = parameter_list(at, size);
    if (!sent) {
        return;
    }
    const std::vector<std::uint8_t>& list = *sent;
    const std::size_t descriptors =
        list.size() < header ? 0 : (ten ? get_be(list, 6, 2) : get_be(list, 3, 1));
    if (list.size() < header + descriptors) {
        fail(at, sense::kParameterListLength);
        return;
    }
    for (std::size_t place = header + descriptors; place < list.size();) {
        const std::vector<std::uint8_t> now = pages_for_mode(list[place] & 0x3f, 0);
        const bool whole =
            (list[place] & 0x3f) != kAllPages && !now.empty() && now.size() <= list.size() - place;
        // The first byte's upper bits (saveable, subpage) are reserved here.
        if (!whole || !std::equal(now.begin() + 1, now.end(),
                                  list.begin() + static_cast<std::ptrdiff_t>(place) + 1)) {
            fail(at, sense::kInvalidParameter);
            return;
        }
        place += now.size();
    }
    good(at, size);
}

std::vector<std::uint8_t> LogicalUnit::all_opcodes(bool timeouts) const {
    std::vector<std::uint8_t> data(4);
    for (const auto table : {common_commands(), commands()}) {
        for (const Command& command : table) {
            const std::size_t place = data.size();
            data.resize(place + (timeouts ? 20 : 8));
            data[place] = command.opcode;
            data[place + 5] = timeouts ? 0x02 : 0;
            if (command.action != kNoAction) {
                put_be(data, place + 2, 2, static_cast<std::uint64_t>(command.action));
                data[place + 5] |= 0x01;
            }
            put_be(data, place + 6, 2, length_of(command.opcode));
            if (timeouts) {
                put_be(data, place + 8, 2, 10);  // a descriptor that names no time
            }
        }
    }
    put_be(data, 0, 4, data.size() - 4);
    return data;
}

std::vector<std::uint8_t> LogicalUnit::one_opcode(const Command* command, bool timeouts) const {
    std::vector<std::uint8_t> data(4);
    data[1] = 0x01;  // not supported
    if (command != nullptr) {
        const std::size_t length = length_of(command->opcode);
        data[1] = static_cast<std::uint8_t>(0x03 | (timeouts ? 0x80 : 0));
        put_be(data, 2, 2, length);
        data.insert(data.end(), command->usage.begin(),
                    command->usage.begin() + static_cast<std::ptrdiff_t>(length));
        if (timeouts) {
            data.resize(data.size() + 12);
            put_be(data, data.size() - 12, 2, 10);
        }
    }
    return data;
}

void LogicalUnit::report_opcodes(std::size_t at) {
    const auto bytes = cdb(at);
    const bool timeouts = (bytes[2] & 0x80) != 0;
    const std::uint8_t option = bytes[2] & 7;
    const std::uint8_t opcode = bytes[3];
    const auto action = static_cast<int>(cdb_field(at, 4, 2));
    const std::uint64_t allocation = cdb_field(at, 6, 4);
    if (option == 0) {
        reply(at, all_opcodes(timeouts), allocation);
        return;
    }
    const Command* command = find(opcode, option == 1 ? kNoAction : action);
    const bool has_actions =
        opcode == Opcode::kServiceActionIn16 || opcode == Opcode::kMaintenanceIn;
    // SPC-4, 6.27: 1 wants a command without service actions, 2 one with, 3 takes either.
    if (option > 3 || (option == 1 && has_actions) ||
        (option == 2 && !has_actions && command != nullptr)) {
        fail(at, sense::kInvalidField);
        return;
    }
    if (option == 3 && !has_actions && action != 0) {
        command = nullptr;
    }
    reply(at, one_opcode(command, timeouts), allocation);
}

}  // namespace strata::scsi
