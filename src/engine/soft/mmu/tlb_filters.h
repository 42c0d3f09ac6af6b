// TLB filters: what an address space may have large translations or fetch translations of. A set
// bit may be stale or another's; a clear one says that there is none. Compiled for general
// registers only.
#pragma once

#include <cstdint>

#include "engine/soft/mmu/mmu_state.h"

namespace strata::engine::soft {

// Regions of different page sizes must not be the same number for the same address by chance: the
// size is mixed in.
inline std::uint64_t region_4m(std::uint64_t linear) {
    return (linear >> 22) | (1ULL << 60);
}
inline std::uint64_t region_1g(std::uint64_t linear) {
    return (linear >> 30) | (1ULL << 61);
}
inline std::uint64_t filter_bit(std::uint64_t region) {
    return (region * 0x9e3779b97f4a7c15ULL) >> 54;
}

inline bool filter_has(const RegionFilter& filter, std::uint64_t linear) {
    const std::uint64_t small = filter_bit(region_4m(linear)),
                        large = filter_bit(region_1g(linear));
    return (((filter.words[small / 64] >> (small % 64)) |
             (filter.words[large / 64] >> (large % 64))) &
            1) != 0;
}

// `flags`: TlbFlags of a page that holds `linear`.
inline void filter_add(RegionFilter& filter, std::uint64_t linear, std::uint64_t flags) {
    const std::uint64_t bit =
        filter_bit((flags & TlbFlags::kLarge1G) != 0 ? region_1g(linear) : region_4m(linear));
    filter.words[bit / 64] |= 1ULL << (bit % 64);
}

inline std::uint64_t page_bit(std::uint64_t linear) {
    return ((linear >> 12) * 0x9e3779b97f4a7c15ULL) >> 50;
}
inline void pages_add(PageFilter& filter, std::uint64_t linear) {
    filter.words[page_bit(linear) / 64] |= 1ULL << (page_bit(linear) % 64);
}
inline bool pages_have(const PageFilter& filter, std::uint64_t linear) {
    return ((filter.words[page_bit(linear) / 64] >> (page_bit(linear) % 64)) & 1) != 0;
}

inline bool upper_half(std::uint64_t linear) {
    return (linear >> 47) != 0;
}

}  // namespace strata::engine::soft
