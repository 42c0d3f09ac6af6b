// BitmapSet: bringing bitmaps to the file.
#include <algorithm>

#include "base/endian.h"
#include "block/formats/qcow2/bitmap_set.h"

namespace strata::block::qcow2 {
namespace {

bool is_zero(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(),
                       [](std::byte each) { return each == std::byte{0}; });
}

}  // namespace

/// Into new clusters; those of zeros need none.
Task<> BitmapSet::store_bits(Live& live) {
    const std::uint64_t cluster = metadata_.header().cluster();
    const std::span<const std::byte> bytes = std::as_bytes(std::span(live.bits));
    const std::uint64_t entries = std::max<std::uint64_t>(
        1, (bitmap_bytes(metadata_.header().size, live.stored.granularity_bits) + cluster - 1) /
               cluster);
    std::vector<Be64> table(entries);
    std::vector<std::byte> content(cluster);
    for (std::uint64_t i = 0; i < entries; ++i) {
        const std::uint64_t at = std::min<std::uint64_t>(bytes.size(), i * cluster);
        const std::span<const std::byte> part =
            bytes.subspan(at, std::min<std::uint64_t>(cluster, bytes.size() - at));
        if (is_zero(part)) {
            continue;
        }
        STRATA_CO_TRY(const std::uint64_t place, co_await metadata_.allocate_table(1));
        table[i] = place;
        std::fill(std::copy(part.begin(), part.end(), content.begin()), content.end(),
                  std::byte{0});
        STRATA_CO_TRY_VOID(co_await file_.write(place, Buffers::of(content)));
    }
    STRATA_CO_TRY(const std::uint64_t place,
                  co_await metadata_.allocate_table((entries * 8 + cluster - 1) / cluster));
    table.resize((entries * 8 + cluster - 1) / cluster * cluster / 8);
    STRATA_CO_TRY_VOID(co_await file_.write(place, Buffers::of(std::as_bytes(std::span(table)))));
    live.stored.table_offset = place;
    live.stored.table_entries = static_cast<std::uint32_t>(entries);
    co_return ok();
}

/// Notes the clusters of what the file has under this entry.
Task<> BitmapSet::let_go(StoredBitmap stored) {
    if (stored.table_offset == 0) {
        co_return ok();
    }
    const std::uint64_t cluster = metadata_.header().cluster();
    std::vector<std::uint64_t> words;
    STRATA_CO_TRY_VOID(co_await read_table_into(stored, words));
    for (const std::uint64_t word : words) {
        if ((word & kOffsetMask) != 0) {
            old_.emplace_back(word & kOffsetMask, 1);
        }
    }
    old_.emplace_back(stored.table_offset, (stored.table_entries * 8ULL + cluster - 1) / cluster);
    co_return ok();
}

void BitmapSet::update_header(const BitmapExtension& extension) {
    Header& h = metadata_.header();
    std::erase_if(h.extensions, [](const auto& each) { return each.first == kBitmapsExtension; });
    h.has_bitmaps = extension.bitmaps != 0;
    h.autoclear = (h.autoclear & ~kBitmaps) | (h.has_bitmaps ? kBitmaps : 0);
    if (h.has_bitmaps) {
        h.extensions.emplace_back(kBitmapsExtension, serialise_bitmap_extension(extension));
    }
    extension_ = extension;
}

Task<> BitmapSet::store() {
    const std::uint64_t cluster = metadata_.header().cluster();
    for (const StoredBitmap& each : removed_) {
        STRATA_CO_TRY_VOID(co_await let_go(each));
    }
    removed_.clear();
    for (Live& each : all_) {
        if (each.loaded && each.changed) {
            STRATA_CO_TRY_VOID(co_await let_go(each.stored));
            STRATA_CO_TRY_VOID(co_await store_bits(each));
        }
    }
    if (extension_.bitmaps != 0) {
        old_.emplace_back(extension_.directory_offset,
                          (extension_.directory_bytes + cluster - 1) / cluster);
    }
    std::vector<StoredBitmap> stored;
    for (const Live& each : all_) {
        stored.push_back(each.stored);
    }
    const std::vector<std::byte> directory = serialise_bitmap_directory(stored);
    BitmapExtension extension{static_cast<std::uint32_t>(all_.size()), directory.size(), 0};
    if (!directory.empty()) {
        STRATA_CO_TRY(extension.directory_offset, co_await metadata_.allocate_table(
                                                      (directory.size() + cluster - 1) / cluster));
        STRATA_CO_TRY_VOID(
            co_await file_.write(extension.directory_offset, Buffers::of(directory)));
    }
    STRATA_CO_TRY_VOID(co_await metadata_.write_back());
    std::uint64_t at = 0;
    for (Live& each : all_) {
        each.stored.flags_place = at + 12;
        at += (24 + each.stored.extra.size() + each.stored.name.size() + 7) / 8 * 8;
        each.changed = each.marked = false;
    }
    marked_ = false;
    update_header(extension);
    co_return ok();
}

void BitmapSet::release_old() {
    for (const auto& each : old_) {
        metadata_.release(each.first, each.second);
    }
    old_.clear();
}

}  // namespace strata::block::qcow2
