// RewrittenLines: which 64-byte lines of RAM small stores have found code in again and again.
//
// What is made of such a line compares the bytes by itself each time it runs (Block::checked),
// instead of being killed by the next store. Only a guess about speed rests on it, so it may
// forget. Not thread-safe: the translator's lock guards it.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>

#include "engine/soft/cache/code_lines.h"

namespace strata::engine::soft {

class RewrittenLines {
  public:
    /// `many`: stores after which a line counts as rewritten.
    explicit RewrittenLines(std::uint8_t many) : many_(many) {}

    /// A store to [offset, +length) has hit code.
    void note(std::uint64_t offset, std::uint64_t length) {
        for (std::uint64_t line = offset / kLine; line <= (offset + length - 1) / kLine; ++line) {
            if (pages_.size() >= kMostPages && !pages_.contains(line / kLines)) {
                pages_.clear();
            }
            Page& page = pages_[line / kLines];
            if (++page.stores[line % kLines] >= many_) {
                page.stores[line % kLines] = many_;
                page.lines |= std::uint64_t{1} << (line % kLines);
            }
        }
    }
    /// Those of a page (a RAM page number), as CodeLines::mask() has them.
    [[nodiscard]] std::uint64_t of_page(std::uint64_t page) const {
        const auto found = pages_.find(page);
        return found == pages_.end() ? 0 : found->second.lines;
    }
    /// The lines of a range within one page count from the beginning.
    void forget(std::uint64_t offset, std::uint64_t length) {
        const auto found = pages_.find(offset / kLine / kLines);
        if (found == pages_.end()) {
            return;
        }
        const std::uint64_t lines = CodeLines::mask(offset, length);
        found->second.lines &= ~lines;
        for (std::size_t line = 0; line < kLines; ++line) {
            if (((lines >> line) & 1U) != 0) {
                found->second.stores[line] = 0;
            }
        }
    }

  private:
    static constexpr std::uint64_t kLine = 64, kLines = 64;
    static constexpr std::size_t kMostPages = 1U << 14U;
    struct Page {
        std::uint64_t lines = 0;
        std::array<std::uint8_t, kLines> stores{};
    };
    std::unordered_map<std::uint64_t, Page> pages_;
    std::uint8_t many_;
};

}  // namespace strata::engine::soft
