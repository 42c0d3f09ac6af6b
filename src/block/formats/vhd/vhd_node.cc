// VhdNode: the table and the bitmaps.
#include "block/formats/vhd/vhd_node.h"

#include <algorithm>
#include <cerrno>
#include <iterator>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/new_image.h"

namespace strata::block::vhd {
namespace {

constexpr std::size_t kMaxMessages = 20;

/// What is wrong with a slot there; empty: nothing.
std::string_view damage_at(std::uint64_t slot, std::uint64_t bytes, std::uint64_t file_size,
                           const Footer& footer, const Header& header) {
    const auto on = [&](std::uint64_t offset, std::uint64_t length) {
        return slot < offset + length && offset < slot + bytes;
    };
    if (on(0, kFooterBytes) || on(footer.data_offset, kHeaderBytes) ||
        on(header.table_offset, std::uint64_t{header.entries} * 4)) {
        return "on the image's tables";
    }
    if (slot >= file_size) {
        return "past the end of the file";
    }
    return slot + bytes > file_size ? "and the file ends within it" : "";
}

}  // namespace

Task<SlotSurvey> survey_slots(Node& file, const Footer& footer, const Header& header) {
    constexpr std::uint64_t kPart = 64U << 10;
    const std::uint64_t slot_bytes = std::uint64_t{header.bitmap_bytes()} + header.block;
    const std::uint64_t table = header.entries * 4ULL;
    SlotSurvey survey;
    for (std::uint64_t at = 0; at < table; at += kPart) {
        STRATA_CO_TRY(const auto bytes, co_await read_bytes(file, header.table_offset + at,
                                                            std::min(kPart, table - at)));
        for (std::size_t i = 0; i < bytes.size(); i += 4) {
            const std::uint32_t entry = get<Be32>(bytes, i);
            if (entry == kUnallocated) {
                continue;
            }
            const std::uint64_t slot = entry * 512ULL;
            survey.end = std::max(survey.end, slot + slot_bytes);
            const auto damage = damage_at(slot, slot_bytes, file.size(), footer, header);
            survey.damaged += damage.empty() ? 0 : 1;
            if (!damage.empty() && survey.messages.size() < kMaxMessages) {
                survey.messages.push_back(fmt::format("the block at {} lies at {}, {}",
                                                      (at + i) / 4 * header.block, slot, damage));
            }
        }
    }
    co_return survey;
}

VhdNode::VhdNode(NodePtr file, std::string name, bool read_only, const Layout& layout,
                 NodePtr backing)
    : TableNode(std::move(file), std::move(name), read_only),
      footer_(layout.footer),
      header_(layout.header),
      old_end_(file_->size()) {
    backing_ = std::move(backing);
    end_ = layout.end;
    checks_ends_ = fixed();
    past_end_ = PastEnd::Refused;
    configure(layout.size, fixed() ? 1U << 20 : header_.block, false);
    if (fixed()) {
        traits_.cluster_size = 0;
    }
}

Task<FormatInfo> VhdNode::info() {
    FormatInfo info;
    info.cluster_size = fixed() ? 0 : header_.block;
    info.backing_name = header_.parent_name;
    info.backing_format = header_.parent_name.empty() ? "" : "vpc";
    co_return info;
}

Task<CheckReport> VhdNode::check(Repair repair) {
    STRATA_CO_TRY(CheckReport report, co_await TableNode::check(repair));
    if (!fixed()) {
        STRATA_CO_TRY(SlotSurvey survey, co_await survey_slots(*file_, footer_, header_));
        report.corruptions += survey.damaged;
        std::ranges::move(survey.messages, std::back_inserter(report.messages));
    }
    co_return report;
}

Task<Place> VhdNode::find(std::uint64_t offset, std::uint64_t length) {
    if (fixed()) {
        co_return Place{
            .kind = Place::Kind::Data, .length = length, .offset = offset, .look_below = true};
    }
    const std::uint64_t block = offset / header_.block, within = offset % header_.block;
    Place place{.length = std::min<std::uint64_t>(length, header_.block - within)};
    STRATA_CO_TRY(const Be32 entry, co_await meta_.load<Be32>(entry_offset(block)));
    if (entry == kUnallocated) {
        // Nothing lies below a dynamic disk: what it lacks is zeros of its own.
        place.kind = footer_.type == Type::Dynamic ? Place::Kind::Zero : Place::Kind::Hole;
        co_return place;
    }
    const std::uint64_t bitmap = entry * 512ULL;
    if (!lies_within(bitmap, header_.bitmap_bytes(), readable_end())) {
        place.kind = Place::Kind::Lost;
        place.offset = bitmap;
        co_return place;
    }
    bool set = false;
    const std::uint64_t last = (within + place.length - 1) / 512;
    STRATA_CO_TRY(const std::uint64_t sectors,
                  co_await meta_.same_bits(bitmap, within / 512, last - within / 512 + 1,
                                           MetaCache::BitOrder::HighFirst, set));
    place.length = std::min(place.length, (within / 512 + sectors) * 512 - within);
    if (set) {
        place.kind = Place::Kind::Data;
        place.offset = bitmap + header_.bitmap_bytes() + within;
    } else if (footer_.type == Type::Dynamic) {
        place.kind = Place::Kind::Zero;
    }
    co_return place;
}

Task<Reservation> VhdNode::reserve(std::uint64_t block, std::uint64_t /*count*/) {
    STRATA_CO_TRY(const Be32 entry, co_await meta_.load<Be32>(entry_offset(block)));
    if (entry != kUnallocated) {
        co_return Reservation{.offset = entry * 512ULL + header_.bitmap_bytes(), .in_place = true};
    }
    const std::uint64_t at = round_up(end_, 512);
    if (at / 512 >= kUnallocated) {
        co_return Error{ErrorKind::Failed,
                        fmt::format("VHD image '{}': it cannot grow beyond {} bytes", name(), at),
                        ENOSPC};
    }
    end_ = at + header_.bitmap_bytes() + header_.block;
    // The footer lay where the bitmap will.
    co_return Reservation{
        .offset = at + header_.bitmap_bytes(),
        .zeroed = file_->traits().zero_initialised && at + header_.bitmap_bytes() >= old_end_};
}

Task<> VhdNode::publish(std::uint64_t block, const Reservation& reservation) {
    const std::vector<std::byte> ones(header_.bitmap_bytes(), std::byte{0xFF});
    const std::uint64_t bitmap = reservation.offset - header_.bitmap_bytes();
    STRATA_CO_TRY_VOID(co_await meta_.store_bytes(bitmap, ones, 0));
    if (!reservation.in_place) {
        STRATA_CO_TRY_VOID(co_await meta_.store(entry_offset(block),
                                                Be32(static_cast<std::uint32_t>(bitmap / 512)), 1));
    }
    co_return ok();
}

Task<CompactReport> VhdNode::pack_file(CompactWatch watch) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    if (fixed()) {
        co_return CompactReport{};
    }
    SlotPacker packer(*this, *this, std::move(watch));
    co_return co_await packer.run();
}

Task<SlotLayout> VhdNode::slot_layout() {
    SlotLayout slots{.bytes = std::uint64_t{header_.bitmap_bytes()} + header_.block,
                     .base = 0,
                     .step = 512,
                     .blocks = header_.entries};
    slots.fixed = {{0, kFooterBytes},
                   {footer_.data_offset, kHeaderBytes},
                   {header_.table_offset, header_.table_bytes()}};
    for (const Locator& each : header_.locators) {
        if (each.platform != 0 && each.length <= kMaxLocator && each.offset < file_->size()) {
            slots.fixed.emplace_back(each.offset, round_up(each.length, 512));
        }
    }
    co_return slots;
}

Task<std::optional<std::uint64_t>> VhdNode::slot_of(std::uint64_t block) {
    STRATA_CO_TRY(const Be32 entry, co_await meta_.load<Be32>(entry_offset(block)));
    co_return entry == kUnallocated ? std::nullopt : std::optional(entry * 512ULL);
}

// What a block lacks shows what lies below; of a dynamic disk that is zeros.
Task<bool> VhdNode::expendable(std::uint64_t slot) {
    const std::uint64_t sectors = header_.block / 512;
    for (std::uint64_t sector = 0; sector < sectors;) {
        bool set = false;
        STRATA_CO_TRY(const std::uint64_t same,
                      co_await meta_.same_bits(slot, sector, sectors - sector,
                                               MetaCache::BitOrder::HighFirst, set));
        if (set && footer_.type != Type::Dynamic) {
            co_return false;
        }
        if (set) {
            STRATA_CO_TRY(const bool zeros,
                          co_await reads_as_zeros(
                              *file_, slot + header_.bitmap_bytes() + sector * 512, same * 512));
            if (!zeros) {
                co_return false;
            }
        }
        sector += same;
    }
    co_return true;
}

Task<> VhdNode::set_slot(std::uint64_t block, std::uint64_t slot) {
    const std::uint32_t entry = slot == 0 ? kUnallocated : static_cast<std::uint32_t>(slot / 512);
    co_return co_await meta_.store(entry_offset(block), Be32(entry), 1);
}

Task<> VhdNode::copy_slot_head(std::uint64_t from, std::uint64_t to) {
    std::vector<std::byte> bitmap(header_.bitmap_bytes());
    STRATA_CO_TRY_VOID(co_await meta_.load_bytes(from, bitmap));
    co_return co_await meta_.store_bytes(to, bitmap, 0);
}

Task<> VhdNode::cut_file(std::uint64_t end) {
    return end_file(round_up(end, 512));
}

Task<> VhdNode::write_tail() {
    if (fixed()) {
        co_return ok();
    }
    const auto bytes = serialise_footer(footer_);
    co_return co_await file_->write(round_up(end_, 512), Buffers::of(bytes));
}

}  // namespace strata::block::vhd
