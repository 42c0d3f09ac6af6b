// Bitmap: making, merging, counting.
#include "block/bitmap.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace strata::block {

Bitmap empty_bitmap(std::string name, std::uint64_t size, std::uint64_t granularity,
                    bool automatic) {
    Bitmap bitmap;
    bitmap.info = {.name = std::move(name),
                   .granularity = granularity,
                   .in_use = false,
                   .automatic = automatic};
    bitmap.size = size;
    const std::uint64_t bits = size / granularity + (size % granularity != 0 ? 1 : 0);
    bitmap.bits.resize((bits + 63) / 64);
    return bitmap;
}

void merge_bits(Bitmap& into, const Bitmap& from) {
    const std::uint64_t last =
        into.size / into.info.granularity + (into.size % into.info.granularity != 0 ? 1 : 0);
    for (std::uint64_t bit = 0;
         bit / 64 < from.bits.size() && bit * from.info.granularity < from.size; ++bit) {
        if (bit % 64 == 0 && from.bits[bit / 64] == 0) {
            bit += 63;
            continue;
        }
        if ((from.bits[bit / 64] >> (bit % 64) & 1U) == 0) {
            continue;
        }
        const std::uint64_t start = bit * from.info.granularity;
        for (std::uint64_t at = start / into.info.granularity;
             at < last && at * into.info.granularity < start + from.info.granularity; ++at) {
            into.bits[at / 64] |= 1ULL << (at % 64);
        }
    }
}

void mark_dirty(Bitmap& bitmap, std::uint64_t offset, std::uint64_t length) {
    if (offset >= bitmap.size || length == 0) {
        return;
    }
    const std::uint64_t end = offset + std::min(length, bitmap.size - offset);
    const std::uint64_t last = (end - 1) / bitmap.info.granularity;
    for (std::uint64_t bit = offset / bitmap.info.granularity; bit <= last; ++bit) {
        bitmap.bits[bit / 64] |= 1ULL << (bit % 64);
    }
}

std::uint64_t dirty_bytes(const Bitmap& bitmap) {
    std::uint64_t bits = 0;
    for (const std::uint64_t word : bitmap.bits) {
        bits += static_cast<std::uint64_t>(std::popcount(word));
    }
    return std::min(bits * bitmap.info.granularity, bitmap.size);
}

}  // namespace strata::block
