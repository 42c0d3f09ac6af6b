// Le16/Le32/Le64 and Be16/Be32/Be64: integers that leave the process or belong to the guest, always
// in this byte order.
//
// They have alignment 1 and are trivially copyable, so packed wire structures are plain structs of
// them.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace strata {

/// An unsigned integer stored in byte order `Order`.
template <std::unsigned_integral T, std::endian Order>
class EndianInt {
  public:
    EndianInt() = default;
    // Assigning host integers to wire fields is what the type is for.
    // NOLINTNEXTLINE(google-explicit-constructor)
    constexpr EndianInt(T value)
        : bytes_(std::bit_cast<std::array<std::byte, sizeof(T)>>(swap(value))) {}
    // NOLINTNEXTLINE(google-explicit-constructor)
    constexpr operator T() const { return swap(std::bit_cast<T>(bytes_)); }
    [[nodiscard]] constexpr T value() const { return *this; }

  private:
    static constexpr T swap(T value) {
        if constexpr (Order == std::endian::native || sizeof(T) == 1) {
            return value;
        } else if constexpr (sizeof(T) == 2) {
            return __builtin_bswap16(value);
        } else if constexpr (sizeof(T) == 4) {
            return __builtin_bswap32(value);
        } else {
            return __builtin_bswap64(value);
        }
    }
    std::array<std::byte, sizeof(T)> bytes_{};
};

using Le16 = EndianInt<std::uint16_t, std::endian::little>;
using Le32 = EndianInt<std::uint32_t, std::endian::little>;
using Le64 = EndianInt<std::uint64_t, std::endian::little>;
using Be16 = EndianInt<std::uint16_t, std::endian::big>;
using Be32 = EndianInt<std::uint32_t, std::endian::big>;
using Be64 = EndianInt<std::uint64_t, std::endian::big>;

static_assert(sizeof(Le32) == 4 && alignof(Le64) == 1 && std::is_trivially_copyable_v<Be64>);

}  // namespace strata
