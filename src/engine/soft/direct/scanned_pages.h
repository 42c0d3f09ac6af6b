// ScannedPages: what was found of pages of code by their hashes, so that programs that start again
// are not looked at again.
//
// A table whose places are overwritten; its memory is taken as it is used. Of one vCPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <sys/mman.h>

#include "base/mmap_region.h"

namespace strata::engine::soft {

class ScannedPages {
  public:
    ScannedPages() {
        auto made = MmapRegion::map(kWords * sizeof(std::uint64_t), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS);
        if (made) {  // else each page is looked at each time
            words_ = std::move(made).value();
        }
    }
    /// What `look()` said of the page with this hash, or says now.
    template <typename Look>
    [[nodiscard]] bool runs_natively(std::uint64_t hash, Look look) {
        constexpr std::uint64_t kRuns = 1, kSensitive = 2, kFound = 3;
        if (!words_.valid()) {
            return look();
        }
        // SAFETY: the place is below kWords, and the memory is this object's and aligned.
        std::uint64_t& known =
            reinterpret_cast<std::uint64_t*>(words_.data())[(hash >> 2U) % kWords];
        if ((known & kFound) == 0 || ((known ^ hash) & ~kFound) != 0) {
            known = (hash & ~kFound) | (look() ? kRuns : kSensitive);
        }
        return (known & kFound) == kRuns;
    }

  private:
    static constexpr std::size_t kWords = 32768;
    MmapRegion words_;
};

}  // namespace strata::engine::soft
