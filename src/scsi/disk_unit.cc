// DiskUnit: the block commands.
#include "scsi/disk_unit.h"

#include <algorithm>
#include <bit>

#include "block/buffers.h"

namespace strata::scsi {

Result<std::unique_ptr<DiskUnit>> DiskUnit::create(const UnitConfig& config,
                                                   std::unique_ptr<block::DiskImage> image) {
    auto queue = STRATA_TRY(open_queue(*image, config));
    return std::unique_ptr<DiskUnit>(new DiskUnit(config, std::move(image), std::move(queue)));
}

// NOLINTNEXTLINE(readability-function-size): a table
std::span<const LogicalUnit::Command> DiskUnit::commands() const {
    using U = DiskUnit;
    constexpr unsigned kIo = Flag::kMedium;
    constexpr unsigned kWrite = Flag::kMedium | Flag::kWrites;
    constexpr std::uint8_t kF = 0xff;
    constexpr int kNone = kNoAction;
    static constexpr std::array kTable{
        Command{Opcode::kRead6, kNone, kIo, call<U, &U::read>, {0x08, 0x1f, kF, kF, kF, 0x04}},
        Command{Opcode::kWrite6, kNone, kWrite, call<U, &U::write>, {0x0a, 0x1f, kF, kF, kF, 0x04}},
        Command{Opcode::kStartStopUnit,
                kNone,
                0,
                call<U, &U::start_stop>,
                {0x1b, 0x01, 0, 0x0f, 0xf7, 0x04}},
        Command{Opcode::kReadCapacity10,
                kNone,
                kIo,
                call<U, &U::read_capacity10>,
                {0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x04}},
        Command{Opcode::kRead10,
                kNone,
                kIo,
                call<U, &U::read>,
                {0x28, 0x18, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kWrite10,
                kNone,
                kWrite,
                call<U, &U::write>,
                {0x2a, 0x18, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kWriteAndVerify10,
                kNone,
                kWrite,
                call<U, &U::write_and_verify>,
                {0x2e, 0x10, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kVerify10,
                kNone,
                kIo,
                call<U, &U::verify>,
                {0x2f, 0x16, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kSynchronizeCache10,
                kNone,
                kIo,
                call<U, &U::synchronize>,
                {0x35, 0x02, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kWriteSame10,
                kNone,
                kWrite,
                call<U, &U::write_same>,
                {0x41, 0x08, kF, kF, kF, kF, 0, kF, kF, 0x04}},
        Command{Opcode::kUnmap,
                kNone,
                kWrite,
                call<U, &U::unmap>,
                {0x42, 0, 0, 0, 0, 0, 0, kF, kF, 0x04}},
        Command{Opcode::kRead16,
                kNone,
                kIo,
                call<U, &U::read>,
                {0x88, 0x18, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kWrite16,
                kNone,
                kWrite,
                call<U, &U::write>,
                {0x8a, 0x18, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kWriteAndVerify16,
                kNone,
                kWrite,
                call<U, &U::write_and_verify>,
                {0x8e, 0x10, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kVerify16,
                kNone,
                kIo,
                call<U, &U::verify>,
                {0x8f, 0x16, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kSynchronizeCache16,
                kNone,
                kIo,
                call<U, &U::synchronize>,
                {0x91, 0x02, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kWriteSame16,
                kNone,
                kWrite,
                call<U, &U::write_same>,
                {0x93, 0x09, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kServiceActionIn16,
                ServiceAction::kReadCapacity16,
                kIo,
                call<U, &U::read_capacity16>,
                {0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kRead12,
                kNone,
                kIo,
                call<U, &U::read>,
                {0xa8, 0x18, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kWrite12,
                kNone,
                kWrite,
                call<U, &U::write>,
                {0xaa, 0x18, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kWriteAndVerify12,
                kNone,
                kWrite,
                call<U, &U::write_and_verify>,
                {0xae, 0x10, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
        Command{Opcode::kVerify12,
                kNone,
                kIo,
                call<U, &U::verify>,
                {0xaf, 0x16, kF, kF, kF, kF, kF, kF, kF, kF, 0, 0x04}},
    };
    return kTable;
}

DiskUnit::Range DiskUnit::range_of(std::size_t at) const {
    switch (cdb(at)[0] >> 5) {
        case 0: {
            const std::uint64_t count = cdb_field(at, 4, 1);
            return {cdb_field(at, 1, 3) & 0x1fffff, count != 0 ? count : 256};
        }
        case 4:
            return {cdb_field(at, 2, 8), cdb_field(at, 10, 4)};
        case 5:
            return {cdb_field(at, 2, 4), cdb_field(at, 6, 4)};
        default:
            return {cdb_field(at, 2, 4), cdb_field(at, 7, 2)};
    }
}

// There is no protection information: the bits that ask for it (upper three of byte 1) must be 0.
bool DiskUnit::unprotected(std::size_t at) {
    if (cdb(at)[0] >= 0x20 && (cdb(at)[1] & 0xe0) != 0) {
        fail(at, sense::kInvalidField);
        return false;
    }
    return true;
}

void DiskUnit::read(std::size_t at) {
    if (unprotected(at)) {
        const Range range = range_of(at);
        transfer(at, block::DiskOp::Read, range.block, range.count, false);
    }
}

void DiskUnit::write(std::size_t at) {
    if (unprotected(at)) {
        const Range range = range_of(at);
        const bool force_unit_access = cdb(at)[0] >= 0x20 && (cdb(at)[1] & 0x08) != 0;
        transfer(at, block::DiskOp::Write, range.block, range.count, force_unit_access);
    }
}

void DiskUnit::write_and_verify(std::size_t at) {
    if (unprotected(at)) {
        const Range range = range_of(at);
        transfer(at, block::DiskOp::Write, range.block, range.count, true);
    }
}

void DiskUnit::verify(std::size_t at) {
    const Range range = range_of(at);
    const unsigned check = (cdb(at)[1] >> 1) & 3;
    if (!unprotected(at) || !in_range(at, range.block, range.count)) {
        return;
    }
    if (check > 1 || range.count > kMaxBlocks) {
        fail(at, sense::kInvalidField);
        return;
    }
    if (check == 0 || range.count == 0) {
        good(at);
        return;
    }
    Request& wanted = request(at);
    if (holds(at, wanted.task.out, range.count * block_size())) {
        wanted.offset = range.block * block_size();
        wanted.left = range.count * block_size();
        compare(at);
    }
}

void DiskUnit::synchronize(std::size_t at) {
    const Range range = range_of(at);
    if (in_range(at, range.block, range.count)) {
        sync(at);  // all of it: there is no less
    }
}

void DiskUnit::write_same(std::size_t at) {
    const Range range = range_of(at);
    const bool sixteen = cdb(at)[0] == Opcode::kWriteSame16;
    const bool unmap_bit = (cdb(at)[1] & 0x08) != 0;
    const bool no_data = sixteen && (cdb(at)[1] & 0x01) != 0;
    // SBC-3, 5.43: the anchor bit, protection and the obsolete bits. 0 blocks are refused (WSNZ).
    if ((cdb(at)[1] & (sixteen ? 0xf6 : 0xf7)) != 0 || range.count == 0 ||
        range.count > kMaxWriteSame) {
        fail(at, sense::kInvalidField);
        return;
    }
    if (!in_range(at, range.block, range.count) ||
        (!no_data && !holds(at, request(at).task.out, block_size()))) {
        return;
    }
    const std::uint64_t bytes = range.count * block_size();
    const std::uint64_t offset = range.block * block_size();
    const auto pattern =
        no_data ? std::vector<std::uint8_t>(block_size()) : parameters(at, block_size());
    request(at).moved = no_data ? 0 : block_size();
    const bool zeros = block::is_zero(std::as_bytes(std::span(pattern)));
    if (zeros && image()->traits().write_zeroes) {
        disk(at, {.op = block::DiskOp::WriteZeroes,
                  .offset = offset,
                  .length = bytes,
                  .may_unmap = unmap_bit});
        return;
    }
    auto& own = request(at).own;
    own.resize(std::min<std::uint64_t>(bytes, kOwnMemory));
    for (std::size_t i = 0; i < own.size(); ++i) {
        own[i] = static_cast<std::byte>(pattern[i % pattern.size()]);
    }
    request(at).offset = offset;
    request(at).left = bytes;
    write_pattern(at);
}

void DiskUnit::unmap(std::size_t at) {
    const std::size_t size = cdb_field(at, 7, 2);
    if ((cdb(at)[1] & 1) != 0) {  // anchor
        fail(at, sense::kInvalidField);
        return;
    }
    if (!image()->traits().discard) {
        fail(at, sense::kInvalidOpcode);
        return;
    }
    const auto sent = parameter_list(at, size);
    if (!sent) {
        return;
    }
    const std::vector<std::uint8_t>& list = *sent;
    if (size < 8 || get_be(list, 2, 2) > size - 8 || get_be(list, 2, 2) % 16 != 0) {
        fail(at, sense::kParameterListLength);
        return;
    }
    const std::size_t count = get_be(list, 2, 2) / 16;
    std::vector<block::DiskRequest> wanted;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t block = get_be(list, 8 + 16 * i, 8);
        const std::uint64_t length = get_be(list, 16 + 16 * i, 4);
        sum += length;
        if (sum > kMaxUnmapBlocks || count > kMaxUnmapDescriptors) {
            fail(at, sense::kInvalidParameter);
            return;
        }
        if (!in_range(at, block, length)) {
            return;
        }
        if (length != 0) {
            wanted.push_back({.op = block::DiskOp::Discard,
                              .offset = block * block_size(),
                              .length = length * block_size()});
        }
    }
    if (wanted.empty()) {
        good(at, size);
        return;
    }
    request(at).moved = size;
    for (block::DiskRequest& each : wanted) {
        disk(at, std::move(each));
    }
}

void DiskUnit::start_stop(std::size_t at) {
    const std::uint8_t bits = cdb(at)[4];
    const bool stops = (bits & 0xf1) == 0;  // no power condition, no START
    if ((bits & 0x02) != 0) {               // LOEJ: nothing here can be ejected
        fail(at, sense::kInvalidField);
    } else if (stops && !image()->traits().read_only) {
        sync(at);
    } else {
        good(at);
    }
}

void DiskUnit::read_capacity10(std::size_t at) {
    if ((cdb(at)[8] & 1) != 0 || cdb_field(at, 2, 4) != 0) {  // obsolete: PMI
        fail(at, sense::kInvalidField);
        return;
    }
    std::array<std::uint8_t, 8> data{};
    put_be(data, 0, 4, std::min<std::uint64_t>(blocks() - 1, 0xffffffff));
    put_be(data, 4, 4, block_size());
    reply(at, data, data.size());
}

std::uint8_t DiskUnit::physical_exponent() const {
    const std::uint32_t ratio = image()->traits().physical_block / block_size();
    return static_cast<std::uint8_t>(std::has_single_bit(ratio) ? std::countr_zero(ratio) : 0);
}

void DiskUnit::read_capacity16(std::size_t at) {
    std::array<std::uint8_t, 32> data{};
    put_be(data, 0, 8, blocks() - 1);
    put_be(data, 8, 4, block_size());
    data[13] = physical_exponent();
    // LBPME. Not LBPRZ: what was discarded may read as anything.
    data[14] = image()->traits().discard ? 0x80 : 0;
    reply(at, data, cdb_field(at, 10, 4));
}

std::span<const std::uint16_t> DiskUnit::versions() const {
    static constexpr std::array<std::uint16_t, 3> kVersions{0x00a0, 0x0460, 0x04c0};  // SAM-5,
    return kVersions;  // SPC-4, SBC-3
}

std::span<const std::uint8_t> DiskUnit::vpd_pages() const {
    static constexpr std::array<std::uint8_t, 3> kPages{0xb0, 0xb1, 0xb2};
    return kPages;
}

std::vector<std::uint8_t> DiskUnit::vpd_page(std::uint8_t page) const {
    const block::DiskTraits& traits = image()->traits();
    std::vector<std::uint8_t> body(page == 0xb2 ? 4 : 60);
    switch (page) {
        case 0xb0: {         // block limits. SBC-3, 6.6.3
            body[0] = 0x01;  // WSNZ
            put_be(body, 2, 2, std::max<std::uint32_t>(1, traits.physical_block / block_size()));
            put_be(body, 4, 4, kMaxBlocks);
            if (traits.discard) {
                put_be(body, 16, 4, kMaxUnmapBlocks);
                put_be(body, 20, 4, kMaxUnmapDescriptors);
                put_be(body, 24, 4,
                       std::max<std::uint32_t>(1, traits.discard_alignment / block_size()));
                put_be(body, 28, 4, 0x80000000);  // aligned to the disk's begin
            }
            put_be(body, 32, 8, kMaxWriteSame);
            return body;
        }
        case 0xb1:  // block device characteristics: does not rotate
            put_be(body, 0, 2, 1);
            return body;
        case 0xb2:                                // logical block provisioning
            body[1] = traits.discard ? 0xe0 : 0;  // UNMAP, WRITE SAME (16) and (10)
            body[2] = traits.discard ? 0x02 : 0;  // thin
            return body;
        default:
            return {};
    }
}

std::span<const std::uint8_t> DiskUnit::mode_pages() const {
    static constexpr std::array<std::uint8_t, 4> kPages{0x01, 0x08, 0x0a, 0x1c};
    return kPages;
}

std::vector<std::uint8_t> DiskUnit::mode_page(std::uint8_t page) const {
    switch (page) {
        case 0x01:  // read-write error recovery
            return {0x01, 0x0a, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
        case 0x08: {  // caching
            std::vector<std::uint8_t> body(20);
            body[0] = 0x08;
            body[1] = 0x12;
            body[2] = image()->traits().write_cache ? 0x04 : 0;
            return body;
        }
        case 0x0a:  // control: commands may be reordered
            return {0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0};
        default:  // 0x1c, informational exceptions: none
            return {0x1c, 0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    }
}

std::uint8_t DiskUnit::mode_parameter() const {
    return static_cast<std::uint8_t>((image()->traits().read_only ? 0x80 : 0) |
                                     (image()->traits().write_cache ? 0x10 : 0));  // WP, DPOFUA
}

}  // namespace strata::scsi
