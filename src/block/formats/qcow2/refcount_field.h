// Refcount fields: reading and writing one refcount of 1 to 64 bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata::block::qcow2 {

/// `at`: the byte the field is in or begins at; `bit`: where in it, for fields of less than a byte.
inline std::uint64_t get_refcount(const std::byte* at, unsigned order, std::uint64_t bit) {
    if (order < 3) {
        return static_cast<std::uint64_t>(*at) >> bit & ((1U << (1U << order)) - 1);
    }
    std::uint64_t value = 0;
    for (unsigned i = 0; i < 1U << (order - 3); ++i) {
        value = value << 8 | static_cast<std::uint64_t>(at[i]);
    }
    return value;
}

inline void put_refcount(std::byte* at, unsigned order, std::uint64_t bit, std::uint64_t value) {
    if (order < 3) {
        const unsigned mask = ((1U << (1U << order)) - 1) << bit;
        *at = static_cast<std::byte>((static_cast<unsigned>(*at) & ~mask) |
                                     (static_cast<unsigned>(value) << bit & mask));
        return;
    }
    for (unsigned i = 1U << (order - 3); i-- != 0; value >>= 8) {
        at[i] = static_cast<std::byte>(value & 0xFF);
    }
}

}  // namespace strata::block::qcow2
