// DirtyBitmap: one bit per guest page, set by any thread, collected and cleared by one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace strata::memory {

/// Bits for `pages` pages. mark() is lock-free; a page marked while collect() runs is in this or
/// the next collection.
class DirtyBitmap {
  public:
    explicit DirtyBitmap(std::uint64_t pages);
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    void mark(std::uint64_t page) {
        auto& word = words_[page >> 6];
        const std::uint64_t bit = 1ULL << (page & 63);
        // The load keeps shared lines shared; release pairs with collect()'s acquire.
        if ((word.load(std::memory_order_relaxed) & bit) == 0) {
            word.fetch_or(bit, std::memory_order_release);
        }
    }
    [[nodiscard]] bool test(std::uint64_t page) const {
        return ((words_[page >> 6].load(std::memory_order_acquire) >> (page & 63)) & 1) != 0;
    }
    /// Moves the bits of pages [first, first+count) into `out` (bit 0 of out[0] is `first`; first
    /// is a multiple of 64).
    void collect(std::uint64_t first, std::uint64_t count, std::vector<std::uint64_t>& out);
    void clear();

  private:
    std::uint64_t pages_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
};

}  // namespace strata::memory
