// VhdxNode: the table and the bitmaps.
#include "block/formats/vhdx/vhdx_node.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/new_image.h"
#include "block/formats/vhdx/patched_file.h"

namespace strata::block::vhdx {
namespace {

constexpr std::size_t kMaxDirtyPages = 1024;

bool has_no_content(State state) {
    return state == State::NotPresent || state == State::Undefined || state == State::Zero ||
           state == State::Unmapped;
}

}  // namespace

Task<> PatchedFile::read(std::uint64_t offset, Buffers into) {
    std::vector<std::byte> bytes(into.size());
    STRATA_CO_TRY_VOID(co_await file_->read(offset, Buffers(std::span(bytes))));
    patch_.apply(offset, bytes);
    into.copy_from(bytes);
    co_return ok();
}

VhdxNode::VhdxNode(NodePtr file, std::string name, bool read_only, const Layout& layout,
                   NodePtr backing)
    : TableNode(std::move(file), std::move(name), read_only || layout.parameters.has_parent),
      layout_(layout),
      old_end_(file_->size()) {
    backing_ = std::move(backing);
    configure(layout.parameters.size, layout.parameters.block, true);
    past_end_ = PastEnd::Refused;
}

Task<FormatInfo> VhdxNode::info() {
    FormatInfo info;
    info.cluster_size = layout_.parameters.block;
    info.dirty = layout_.header.dirty();
    info.backing_name = layout_.parameters.parent_value("relative_path");
    info.backing_format = layout_.parameters.has_parent ? "vhdx" : "";
    co_return info;
}

Task<CheckReport> VhdxNode::check(Repair repair) {
    STRATA_CO_TRY(CheckReport report, co_await TableNode::check(repair));
    report.corruptions_fixed += std::exchange(layout_.replayed, false) ? 1 : 0;
    co_return report;
}

// The sectors from `within` on of a block that has some of its own: the bitmap of its chunk says
// which.
Task<> VhdxNode::find_partial(std::uint64_t block, std::uint64_t within, std::uint64_t entry,
                              Place& place) {
    const Parameters& p = layout_.parameters;
    STRATA_CO_TRY(const Le64 bitmap,
                  co_await meta_.load<Le64>(entry_offset(p.bitmap_entry(block))));
    if (state_of(bitmap) != State::Present || offset_of(bitmap) == 0) {
        co_return broken_image("VHDX", name(),
                               fmt::format("block {} is partly present, and has no bitmap", block));
    }
    if (!lies_within(offset_of(bitmap), kMiB, readable_end())) {
        place.kind = Place::Kind::Lost;
        place.offset = offset_of(bitmap);
        co_return ok();
    }
    const std::uint64_t base = (block % p.chunk_ratio()) * (p.block / p.logical_sector);
    const std::uint64_t sector = within / p.logical_sector;
    const std::uint64_t sectors = (within + place.length - 1) / p.logical_sector - sector + 1;
    bool present = false;
    STRATA_CO_TRY(const std::uint64_t same,
                  co_await meta_.same_bits(offset_of(bitmap), base + sector, sectors,
                                           MetaCache::BitOrder::LowFirst, present));
    place.length = std::min(place.length, (sector + same) * p.logical_sector - within);
    if (present) {
        place.kind = Place::Kind::Data;
        place.offset = offset_of(entry) + within;
    }
    co_return ok();
}

Task<Place> VhdxNode::find(std::uint64_t offset, std::uint64_t length) {
    const Parameters& p = layout_.parameters;
    const std::uint64_t block = offset / p.block, within = offset % p.block;
    Place place{.length = std::min<std::uint64_t>(length, p.block - within)};
    STRATA_CO_TRY(const Le64 entry,
                  co_await meta_.load<Le64>(entry_offset(p.payload_entry(block))));
    const State state = state_of(entry);
    if ((state == State::Present || state == State::Partial) && offset_of(entry) == 0) {
        co_return broken_image("VHDX", name(),
                               fmt::format("block {} is present, and has no place", block));
    }
    switch (state) {
        case State::Present:
            place.kind = Place::Kind::Data;
            place.offset = offset_of(entry) + within;
            place.look_below = p.leave_allocated;
            break;
        case State::Partial:
            if (!p.has_parent) {
                co_return broken_image(
                    "VHDX", name(),
                    fmt::format("block {} is partly present in an image without a parent", block));
            }
            STRATA_CO_TRY_VOID(co_await find_partial(block, within, entry, place));
            break;
        case State::Undefined:
        case State::Zero:
        case State::Unmapped:
            place.kind = Place::Kind::Zero;
            break;
        case State::NotPresent:
            break;
        default:
            co_return broken_image("VHDX", name(),
                                   fmt::format("block {} is in the unknown state {}", block,
                                               static_cast<unsigned>(state)));
    }
    co_return place;
}

Task<Reservation> VhdxNode::reserve(std::uint64_t block, std::uint64_t count) {
    // A block that was unmapped may have its place still.
    STRATA_CO_TRY(const Le64 entry,
                  co_await meta_.load<Le64>(entry_offset(layout_.parameters.payload_entry(block))));
    if (offset_of(entry) != 0 && offset_of(entry) + layout_.parameters.block <= old_end_ &&
        offset_of(entry) >= kMiB) {
        co_return Reservation{.offset = offset_of(entry), .zeroed = false};
    }
    const std::uint64_t offset = take_space(count * layout_.parameters.block, kMiB);
    co_return Reservation{
        .offset = offset, .blocks = count, .zeroed = file_->traits().zero_initialised};
}

Task<> VhdxNode::publish(std::uint64_t block, const Reservation& reservation) {
    for (std::uint64_t i = 0; i < reservation.blocks; ++i) {
        const std::uint64_t value = (reservation.offset + i * layout_.parameters.block) |
                                    static_cast<std::uint64_t>(State::Present);
        STRATA_CO_TRY_VOID(co_await meta_.store(
            entry_offset(layout_.parameters.payload_entry(block + i)), Le64(value), 0));
    }
    co_return ok();
}

Task<bool> VhdxNode::publish_zero(std::uint64_t block) {
    const std::uint64_t at = entry_offset(layout_.parameters.payload_entry(block));
    STRATA_CO_TRY(const Le64 entry, co_await meta_.load<Le64>(at));
    STRATA_CO_TRY_VOID(co_await meta_.store(
        at, Le64(offset_of(entry) | static_cast<std::uint64_t>(State::Zero)), 0));
    co_return true;
}

// In a file that was cut off inside a block, new blocks go behind that, not into it; one that lacks
// whole blocks is not written.
Task<> VhdxNode::find_end() {
    const std::uint64_t block_bytes = layout_.parameters.block, file_end = file_->size();
    for (std::uint64_t block = 0; block < layout_.parameters.blocks(); ++block) {
        STRATA_CO_TRY(const Le64 entry, co_await meta_.load<Le64>(payload_offset(block)));
        if (state_of(entry) == State::Present && offset_of(entry) >= file_end) {
            co_return broken_image(
                "VHDX", name(),
                fmt::format(
                    "block {} lies at {}, past the end of the file at {}; it is damaged and "
                    "cannot be written, but read and converted",
                    block, offset_of(entry), file_end));
        }
        if (state_of(entry) == State::Present) {
            end_ = std::max(end_, offset_of(entry) + block_bytes);
        }
        if (block % 4096 == 4095) {
            co_await loop().yield();
        }
    }
    co_return ok();
}

Task<> VhdxNode::before_first_write() {
    STRATA_CO_TRY_VOID(co_await find_end());
    layout_.header.file_write = random_uuid();
    layout_.header.data_write = random_uuid();
    // [MS-VHDX] 2.2.2: twice, so that both headers are current.
    STRATA_CO_TRY_VOID(co_await write_header(*file_, layout_.header));
    co_return co_await write_header(*file_, layout_.header);
}

Task<CompactReport> VhdxNode::pack_file(CompactWatch watch) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    if (layout_.parameters.leave_allocated) {
        co_return CompactReport{};  // its blocks are there to stay
    }
    SlotPacker packer(*this, *this, std::move(watch));
    co_return co_await packer.run();
}

Task<SlotLayout> VhdxNode::slot_layout() {
    const Parameters& p = layout_.parameters;
    SlotLayout slots{.bytes = p.block, .base = kMiB, .step = kMiB, .blocks = p.blocks()};
    slots.fixed = {{0, kMiB},
                   {layout_.header.log_offset, layout_.header.log_length},
                   {layout_.regions.bat.offset, layout_.regions.bat.length},
                   {layout_.regions.metadata.offset, layout_.regions.metadata.length}};
    for (const Region& each : layout_.regions.others) {
        slots.fixed.emplace_back(each.offset, each.length);
    }
    for (std::uint64_t block = 0; block < slots.blocks; block += p.chunk_ratio()) {
        STRATA_CO_TRY(const Le64 bitmap,
                      co_await meta_.load<Le64>(entry_offset(p.bitmap_entry(block))));
        if (offset_of(bitmap) != 0) {
            slots.fixed.emplace_back(offset_of(bitmap), kMiB);
        }
    }
    co_return slots;
}

// What has no content keeps no place, or a write would take it for its own.
Task<> VhdxNode::begin_packing() {
    // The disk stays what it is, so data_write does, by which children know it.
    layout_.header.file_write = random_uuid();
    STRATA_CO_TRY_VOID(co_await write_header(*file_, layout_.header));
    STRATA_CO_TRY_VOID(co_await write_header(*file_, layout_.header));
    for (std::uint64_t block = 0; block < layout_.parameters.blocks(); ++block) {
        STRATA_CO_TRY(const Le64 entry, co_await meta_.load<Le64>(payload_offset(block)));
        if (has_no_content(state_of(entry)) && offset_of(entry) != 0) {
            STRATA_CO_TRY_VOID(co_await meta_.store(
                payload_offset(block), Le64(static_cast<std::uint64_t>(state_of(entry))), 0));
        }
        if (meta_.dirty_pages() > kMaxDirtyPages) {
            STRATA_CO_TRY_VOID(co_await flush());
        }
    }
    co_return co_await flush();
}

Task<std::optional<std::uint64_t>> VhdxNode::slot_of(std::uint64_t block) {
    STRATA_CO_TRY(const Place place, co_await find(block * layout_.parameters.block, 1));
    co_return place.kind == Place::Kind::Data ? std::optional(place.offset) : std::nullopt;
}

Task<bool> VhdxNode::expendable(std::uint64_t slot) {
    return reads_as_zeros(*file_, slot, layout_.parameters.block);
}

Task<> VhdxNode::set_slot(std::uint64_t block, std::uint64_t slot) {
    const State state = slot == 0 ? State::Zero : State::Present;
    co_return co_await meta_.store(payload_offset(block),
                                   Le64(slot | static_cast<std::uint64_t>(state)), 0);
}

Task<> VhdxNode::copy_slot_head(std::uint64_t /*from*/, std::uint64_t /*to*/) {
    co_return ok();
}

Task<> VhdxNode::cut_file(std::uint64_t end) {
    return end_file(end);
}

Task<> write_header(Node& file, Header& header) {
    Header next = header;
    next.index = 1 - header.index;
    ++next.sequence;
    const auto bytes = serialise_header(next);
    STRATA_CO_TRY_VOID(co_await file.write(kHeaderOffset[next.index], Buffers::of(bytes)));
    STRATA_CO_TRY_VOID(co_await file.flush());
    header = next;
    co_return ok();
}

}  // namespace strata::block::vhdx
