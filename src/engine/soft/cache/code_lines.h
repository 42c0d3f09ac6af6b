// CodeLines: which 64-byte lines of RAM hold bytes that a block was made from: one word for each
// page.
//
// A set bit may be stale, a clear one says that there is none. A vCPU that stores into a page of
// code reads it without the translator's lock, after it has said so (TranslatorState::stored_page);
// who makes a block sets the bits and looks at that afterwards. Both with seq_cst: one of the two
// sees the other. Compiled for general registers only.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/mmap_region.h"

namespace strata::engine::soft {

class CodeLines {
  public:
    static Result<CodeLines> create(std::uint64_t ram_size) {
        CodeLines lines;
        lines.memory_ =
            STRATA_TRY(MmapRegion::map((ram_size >> 12) * sizeof(Word) + sizeof(Word),
                                       PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE));
        return lines;
    }

    /// Whether a line that [offset, +length) touches may hold code; the range does not leave its
    /// page.
    [[nodiscard]] bool any(std::uint64_t offset, std::uint64_t length) const {
        return (word(offset >> 12).load(std::memory_order_seq_cst) & mask(offset, length)) != 0;
    }
    [[nodiscard]] bool page_has_any(std::uint64_t page) const {
        return word(page).load(std::memory_order_relaxed) != 0;
    }
    void add(std::uint64_t offset, std::uint64_t length) {
        word(offset >> 12).fetch_or(mask(offset, length), std::memory_order_seq_cst);
    }
    void set(std::uint64_t page, std::uint64_t bits) {
        word(page).store(bits, std::memory_order_seq_cst);
    }

    /// The bits of a range within one page.
    static constexpr std::uint64_t mask(std::uint64_t offset, std::uint64_t length) {
        const std::uint64_t first = (offset & 4095U) / 64,
                            last = ((offset & 4095U) + length - 1) / 64;
        return (~0ULL >> (63 - (last - first))) << first;
    }

  private:
    using Word = std::atomic<std::uint64_t>;
    // SAFETY: anonymous memory begins as zeros, which is what the words begin as; the offset is one
    // in RAM.
    [[nodiscard]] Word& word(std::uint64_t page) const {
        return reinterpret_cast<Word*>(memory_.data())[page];
    }
    MmapRegion memory_;
};

}  // namespace strata::engine::soft
