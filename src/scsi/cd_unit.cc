// CdUnit: the multimedia commands.
#include "scsi/cd_unit.h"

#include <algorithm>

namespace strata::scsi {
namespace {

constexpr std::uint16_t kProfileCd = 0x0008;
constexpr std::uint16_t kProfileDvd = 0x0010;
constexpr std::uint64_t kCdBlocks = 80ULL * 60 * 75;  ///< what a CD holds: 80 minutes
constexpr std::uint8_t kLeadOut = 0xaa;
constexpr std::uint64_t kPregap = 150;  ///< blocks before the first, in minutes:seconds:frames

/// A block as the table of contents names it: a number, or minutes, seconds and frames.
void put_place(std::span<std::uint8_t> bytes, std::size_t at, std::uint64_t block, bool msf) {
    if (!msf) {
        put_be(bytes, at, 4, block);
        return;
    }
    const std::uint64_t frames = block + kPregap;
    bytes[at] = 0;
    bytes[at + 1] = static_cast<std::uint8_t>(std::min<std::uint64_t>(frames / 75 / 60, 255));
    bytes[at + 2] = static_cast<std::uint8_t>(frames / 75 % 60);
    bytes[at + 3] = static_cast<std::uint8_t>(frames % 75);
}

}  // namespace

Result<std::unique_ptr<CdUnit>> CdUnit::create(const UnitConfig& config,
                                               std::unique_ptr<block::DiskImage> image) {
    std::unique_ptr<block::PatientQueue> queue;
    if (image) {
        queue = STRATA_TRY(open_queue(*image, config));
    }
    return std::unique_ptr<CdUnit>(new CdUnit(config, std::move(image), std::move(queue)));
}

// NOLINTNEXTLINE(readability-function-size): a table
std::span<const LogicalUnit::Command> CdUnit::commands() const {
    using U = CdUnit;
    constexpr unsigned kMedium = Flag::kMedium;
    constexpr unsigned kAny = Flag::kAnyAttention;
    constexpr std::uint8_t kF = 0xff;
    constexpr int kNone = kNoAction;
    static constexpr std::array kTable{
        Command{Opcode::kStartStopUnit,
                kNone,
                0,
                call<U, &U::start_stop>,
                {0x1b, 0x01, 0, 0, 0xf3, 0x04}},
        Command{Opcode::kPreventAllowRemoval,
                kNone,
                0,
                call<U, &U::prevent_removal>,
                {0x1e, 0, 0, 0, 0x03, 0x04}},
        Command{Opcode::kReadCapacity10,
                kNone,
                kMedium,
                call<U, &U::read_capacity>,
                {0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x04}},
        Command{Opcode::kRead10,
                kNone,
                kMedium,
                call<U, &U::read>,
                {0x28, 0x18, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kSeek10,
                kNone,
                kMedium,
                call<U, &U::seek>,
                {0x2b, 0, kF, kF, kF, kF, 0, 0, 0, 0x04}},
        Command{Opcode::kReadToc,
                kNone,
                kMedium,
                call<U, &U::read_toc>,
                {0x43, 0x02, 0x0f, 0, 0, 0, kF, kF, kF, 0xc4}},
        Command{Opcode::kGetConfiguration,
                kNone,
                kAny,
                call<U, &U::get_configuration>,
                {0x46, 0x03, kF, kF, 0, 0, 0, kF, kF, 0x04}},
        Command{Opcode::kGetEventStatus,
                kNone,
                kAny,
                call<U, &U::get_event_status>,
                {0x4a, 0x01, 0, 0, kF, 0, 0, kF, kF, 0x04}},
        Command{Opcode::kReadDiscInformation,
                kNone,
                kMedium,
                call<U, &U::read_disc_information>,
                {0x51, 0x07, 0, 0, 0, 0, 0, kF, kF, 0x04}},
        Command{Opcode::kRead12,
                kNone,
                kMedium,
                call<U, &U::read>,
                {0xa8, 0x18, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kSetCdSpeed,
                kNone,
                0,
                call<U, &U::set_speed>,
                {0xbb, 0x03, kF, kF, kF, kF, 0, 0, 0, 0, 0, 0x04}},
        Command{Opcode::kMechanismStatus,
                kNone,
                0,
                call<U, &U::mechanism_status>,
                {0xbd, 0, 0, 0, 0, 0, 0, 0, kF, kF, 0, 0x04}},
        Command{Opcode::kReadCd,
                kNone,
                kMedium,
                call<U, &U::read_cd>,
                {0xbe, 0x1e, kF, kF, kF, kF, kF, kF, kF, 0xfe, 0x07, 0x04}},
    };
    return kTable;
}

Sense CdUnit::medium_state() const {
    if (tray_open_) {
        return sense::kNoMediumTrayOpen;
    }
    return image() != nullptr ? sense::kNone : sense::kNoMedium;
}

std::uint16_t CdUnit::profile() const {
    if (medium_state() != sense::kNone) {
        return 0;
    }
    return blocks() > kCdBlocks ? kProfileDvd : kProfileCd;
}

void CdUnit::on_reset() {
    tray_open_ = false;
    locked_ = false;
    event_ = MediaEvent::None;
}

void CdUnit::read(std::size_t at) {
    const bool twelve = cdb(at)[0] == Opcode::kRead12;
    transfer(at, block::DiskOp::Read, cdb_field(at, 2, 4),
             twelve ? cdb_field(at, 6, 4) : cdb_field(at, 7, 2), false);
}

// Of a sector only the user data can be had. MMC-6, 6.16.
void CdUnit::read_cd(std::size_t at) {
    const unsigned type = (cdb(at)[1] >> 2) & 7;
    const unsigned parts = cdb(at)[9] & 0xfe;
    const std::uint64_t block = cdb_field(at, 2, 4), count = cdb_field(at, 6, 3);
    if ((type != 0 && type != 2) || (cdb(at)[10] & 7) != 0) {  // any, or mode 1; no subchannels
        fail(at,
             type > 5 || (cdb(at)[10] & 7) != 0 ? sense::kInvalidField : sense::kIllegalTrackMode);
    } else if (parts == 0) {
        if (in_range(at, block, count)) {
            good(at);
        }
    } else if (parts != 0x10) {
        fail(at, sense::kInvalidField);
    } else {
        transfer(at, block::DiskOp::Read, block, count, false);
    }
}

void CdUnit::seek(std::size_t at) {
    if (in_range(at, cdb_field(at, 2, 4), 1)) {
        good(at);
    }
}

void CdUnit::move_tray(bool open) {
    if (open == tray_open_) {
        return;
    }
    tray_open_ = open;
    if (image() == nullptr) {
        return;
    }
    event_ = open ? MediaEvent::Removed : MediaEvent::NewMedia;
    if (!open) {
        attention(sense::kMediumChanged);
    }
}

Result<> CdUnit::open_tray_for_owner(bool force) {
    if (locked_ && !tray_open_ && !force) {
        event_ = MediaEvent::EjectRequest;
        return Error{ErrorKind::WrongState,
                     "the guest has locked the tray, and was asked for the disc: try again when it "
                     "has given it, or force the tray open"};
    }
    return ok();
}

void CdUnit::change_medium(std::unique_ptr<block::DiskImage> image,
                           std::unique_ptr<block::PatientQueue> queue) {
    const bool had = this->image() != nullptr && !tray_open_;
    set_medium(std::move(image), std::move(queue));
    tray_open_ = this->image() == nullptr;
    locked_ = false;
    if (!tray_open_) {
        event_ = MediaEvent::NewMedia;
        attention(sense::kMediumChanged);
    } else if (had) {
        event_ = MediaEvent::Removed;
    }
}

void CdUnit::start_stop(std::size_t at) {
    const std::uint8_t bits = cdb(at)[4];
    const bool load_or_eject = (bits & 0xf2) == 0x02;  // LOEJ, no power condition
    const bool start = (bits & 0x01) != 0;
    if (load_or_eject && !start && locked_) {
        fail(at, sense::kRemovalPrevented);
        return;
    }
    if (load_or_eject) {
        move_tray(!start);
    }
    good(at);
}

void CdUnit::prevent_removal(std::size_t at) {
    locked_ = (cdb(at)[4] & 1) != 0;
    good(at);
}

void CdUnit::read_capacity(std::size_t at) {
    std::array<std::uint8_t, 8> data{};
    put_be(data, 0, 4, std::min<std::uint64_t>(blocks(), 0x100000000) - 1);
    put_be(data, 4, 4, block_size());
    reply(at, data, data.size());
}

// One session with one data track. MMC-6, 6.25.
void CdUnit::read_toc(std::size_t at) {
    const auto bytes = cdb(at);
    const bool msf = (bytes[1] & 0x02) != 0;
    unsigned format = bytes[2] & 0x0f;
    format = format == 0 ? bytes[9] >> 6 : format;
    const std::uint8_t first = bytes[6];
    const std::uint64_t allocation = cdb_field(at, 7, 2);
    std::vector<std::uint8_t> data{0, 0, 1, 1};  // first and last track or session
    const auto add = [&](std::uint8_t track, std::uint64_t block) {
        const std::size_t place = data.size();
        data.insert(data.end(), {0, 0x14, track, 0, 0, 0, 0, 0});  // a data track
        put_place(data, place + 4, block, msf);
    };
    if (format == 0 && (first <= 1 || first == kLeadOut)) {
        if (first <= 1) {
            add(1, 0);
        }
        add(kLeadOut, blocks());
    } else if (format == 1) {
        add(1, 0);
    } else {
        fail(at, sense::kInvalidField);
        return;
    }
    put_be(data, 0, 2, data.size() - 2);
    reply(at, data, allocation);
}

// MMC-6, 5 and 6.6.
void CdUnit::get_configuration(std::size_t at) {
    struct Feature {
        std::uint16_t code;
        bool persistent;
        bool current;
        std::vector<std::uint8_t> body;
    };
    const std::uint16_t now = profile();
    const auto mark = [&](std::uint16_t which) -> std::uint8_t { return now == which ? 1 : 0; };
    const std::array<Feature, 8> features{{
        {0x0000,
         true,
         true,
         {0, kProfileDvd, mark(kProfileDvd), 0, 0, kProfileCd, mark(kProfileCd), 0}},
        {0x0001, true, true, {0, 0, 0, 7, 0x01, 0, 0, 0}},       // core: serial ATA
        {0x0002, true, true, {0x02, 0, 0, 0}},                   // morphing: operational events
        {0x0003, true, true, {0x39, 0, 0, 0}},                   // removable medium
        {0x0010, false, now != 0, {0, 0, 0x08, 0, 0, 1, 0, 0}},  // random readable: 2048 bytes
        {0x001e, false, now == kProfileCd, {0, 0, 0, 0}},        // CD read
        {0x001f, false, now == kProfileDvd, {0, 0, 0, 0}},       // DVD read
        {0x0105, true, true, {0, 0, 0, 0}},                      // timeouts
    }};
    const unsigned which = cdb(at)[1] & 3;
    const std::uint64_t start = cdb_field(at, 2, 2);
    if (which == 3) {
        fail(at, sense::kInvalidField);
        return;
    }
    std::vector<std::uint8_t> data(8);
    put_be(data, 6, 2, now);
    for (const Feature& feature : features) {
        const bool wanted = which == 2   ? feature.code == start
                            : which == 1 ? feature.code >= start && feature.current
                                         : feature.code >= start;
        if (!wanted) {
            continue;
        }
        data.insert(
            data.end(),
            {static_cast<std::uint8_t>(feature.code >> 8), static_cast<std::uint8_t>(feature.code),
             static_cast<std::uint8_t>((feature.persistent ? 2 : 0) | (feature.current ? 1 : 0)),
             static_cast<std::uint8_t>(feature.body.size())});
        data.insert(data.end(), feature.body.begin(), feature.body.end());
    }
    put_be(data, 0, 4, data.size() - 4);
    reply(at, data, cdb_field(at, 7, 2));
}

void CdUnit::get_event_status(std::size_t at) {
    constexpr std::uint8_t kMediaClass = 4;
    if ((cdb(at)[1] & 1) == 0) {  // asynchronous operation
        fail(at, sense::kInvalidField);
        return;
    }
    std::vector<std::uint8_t> data{0, 0, 0x80, 1 << kMediaClass};  // no event available
    if ((cdb(at)[4] & (1 << kMediaClass)) != 0) {
        data[2] = kMediaClass;
        const bool present = image() != nullptr && !tray_open_;
        data.insert(data.end(),
                    {static_cast<std::uint8_t>(event_),
                     static_cast<std::uint8_t>((tray_open_ ? 1 : 0) | (present ? 2 : 0)), 0, 0});
    }
    const std::uint64_t allocation = cdb_field(at, 7, 2);
    if (data.size() > 4 && allocation > 4) {
        event_ = MediaEvent::None;
    }
    put_be(data, 0, 2, data.size() - 2);
    reply(at, data, allocation);
}

void CdUnit::read_disc_information(std::size_t at) {
    if ((cdb(at)[1] & 7) != 0) {
        fail(at, sense::kInvalidField);
        return;
    }
    std::array<std::uint8_t, 34> data{};
    put_be(data, 0, 2, data.size() - 2);
    data[2] = 0x0e;  // a finished disc, its last session complete
    data[3] = data[4] = data[5] = data[6] = 1;
    data[7] = 0x20;  // no restrictions of use
    reply(at, data, cdb_field(at, 7, 2));
}

void CdUnit::mechanism_status(std::size_t at) {
    std::array<std::uint8_t, 8> data{};
    data[1] = tray_open_ ? 0x10 : 0;
    reply(at, data, cdb_field(at, 8, 2));
}

std::span<const std::uint16_t> CdUnit::versions() const {
    static constexpr std::array<std::uint16_t, 2> kVersions{0x00a0, 0x0460};  // SAM-5, SPC-4
    return kVersions;
}

std::span<const std::uint8_t> CdUnit::mode_pages() const {
    static constexpr std::array<std::uint8_t, 2> kPages{0x01, 0x2a};
    return kPages;
}

std::vector<std::uint8_t> CdUnit::mode_page(std::uint8_t page) const {
    if (page == 0x01) {
        return {0x01, 0x0a, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0};
    }
    std::vector<std::uint8_t> body(22);  // capabilities and mechanical status. MMC-3, 5.5.10
    constexpr std::uint64_t kSpeed = 50 * 176;
    body[0] = 0x2a;
    body[1] = static_cast<std::uint8_t>(body.size() - 2);
    body[2] = 0x3b;                                                 // reads CD-R, CD-RW, DVDs
    body[6] = static_cast<std::uint8_t>(0x29 | (locked_ ? 2 : 0));  // tray, eject, lock
    put_be(body, 8, 2, kSpeed);
    put_be(body, 12, 2, 2048);
    put_be(body, 14, 2, kSpeed);
    return body;
}

void CdUnit::save_unit(state::StateWriter& writer) const {
    writer.boolean(tray_open_);
    writer.boolean(locked_);
    writer.u8(static_cast<std::uint8_t>(event_));
}

void CdUnit::load_unit(state::StateReader& reader) {
    tray_open_ = reader.boolean();
    locked_ = reader.boolean();
    const std::uint8_t event = reader.u8();
    if (event > static_cast<std::uint8_t>(MediaEvent::Removed)) {
        reader.reject("no media event");
        return;
    }
    event_ = static_cast<MediaEvent>(event);
}

}  // namespace strata::scsi
