// Ticks: converting machine time to the ticks of a clock of some frequency and back, without
// overflow or drift.
#pragma once

#include <cstdint>

namespace strata::devices {

__extension__ using Wide = unsigned __int128;

/// How many ticks of `frequency` Hz have passed at `nanoseconds`.
constexpr std::uint64_t to_ticks(std::uint64_t nanoseconds, std::uint64_t frequency) {
    return static_cast<std::uint64_t>(Wide{nanoseconds} * frequency / 1'000'000'000);
}

/// The first nanosecond at which to_ticks() answers at least `ticks`; the largest integer if that
/// is beyond all time.
constexpr std::uint64_t from_ticks(std::uint64_t ticks, std::uint64_t frequency) {
    const Wide nanoseconds = (Wide{ticks} * 1'000'000'000 + frequency - 1) / frequency;
    return nanoseconds > ~std::uint64_t{0} ? ~std::uint64_t{0}
                                           : static_cast<std::uint64_t>(nanoseconds);
}

static_assert(to_ticks(from_ticks(12345, 1'193'182), 1'193'182) == 12345);

}  // namespace strata::devices
