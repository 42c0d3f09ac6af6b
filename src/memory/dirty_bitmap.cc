// DirtyBitmap: collecting.
#include "memory/dirty_bitmap.h"

namespace strata::memory {

DirtyBitmap::DirtyBitmap(std::uint64_t pages)
    : pages_(pages), words_(std::make_unique<std::atomic<std::uint64_t>[]>((pages + 63) / 64)) {}

void DirtyBitmap::collect(std::uint64_t first, std::uint64_t count,
                          std::vector<std::uint64_t>& out) {
    out.clear();
    for (std::uint64_t page = first; page < first + count; page += 64) {
        out.push_back(words_[page >> 6].exchange(0, std::memory_order_acq_rel));
    }
}

void DirtyBitmap::clear() {
    for (std::uint64_t word = 0; word < (pages_ + 63) / 64; ++word) {
        words_[word].store(0, std::memory_order_relaxed);
    }
}

}  // namespace strata::memory
