// GuestAddress: a guest physical address, a type of its own so that it is never mixed up with host
// pointers.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace strata::memory {

inline constexpr std::uint64_t kPageShift = 12;
inline constexpr std::uint64_t kPageSize = 1ULL << kPageShift;

/// A guest physical address (GPA).
class GuestAddress {
  public:
    constexpr GuestAddress() = default;
    explicit constexpr GuestAddress(std::uint64_t value) : value_(value) {}
    [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
    [[nodiscard]] constexpr std::uint64_t page() const { return value_ >> kPageShift; }

    /// The address `offset` bytes on; nullopt past 2^64.
    [[nodiscard]] constexpr std::optional<GuestAddress> checked_add(std::uint64_t offset) const {
        std::uint64_t sum = 0;
        if (__builtin_add_overflow(value_, offset, &sum)) {
            return std::nullopt;
        }
        return GuestAddress(sum);
    }
    /// This minus `base`; the caller knows that base is not above.
    [[nodiscard]] constexpr std::uint64_t offset_from(GuestAddress base) const {
        return value_ - base.value_;
    }
    constexpr auto operator<=>(const GuestAddress&) const = default;

  private:
    std::uint64_t value_ = 0;
};

}  // namespace strata::memory
