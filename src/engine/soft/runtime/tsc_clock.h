// TscClock: the host's time stamp counter, its frequency, and the monotonic clock in nanoseconds
// beside it.
#pragma once

#include <cstdint>

namespace strata::engine::soft {

/// The host's TSC now. Any thread.
inline std::uint64_t host_tsc() noexcept {
    return __builtin_ia32_rdtsc();
}
/// CLOCK_MONOTONIC in nanoseconds. Any thread.
[[nodiscard]] std::uint64_t monotonic_ns() noexcept;

/// The TSC's frequency in kHz: from CPUID 15h, else measured once (20 ms). Any thread.
[[nodiscard]] std::uint64_t host_tsc_khz() noexcept;

/// `cycles` of a TSC of `khz` in nanoseconds, and the converse. 128 bits wide inside; saturating.
[[nodiscard]] inline std::uint64_t cycles_to_ns(std::uint64_t cycles, std::uint64_t khz) noexcept {
    __extension__ using Wide = unsigned __int128;
    const Wide ns = static_cast<Wide>(cycles) * 1000000U / khz;
    return ns > ~0ULL ? ~0ULL : static_cast<std::uint64_t>(ns);
}
[[nodiscard]] inline std::uint64_t ns_to_cycles(std::uint64_t ns, std::uint64_t khz) noexcept {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(static_cast<Wide>(ns) * khz / 1000000U);
}

}  // namespace strata::engine::soft
