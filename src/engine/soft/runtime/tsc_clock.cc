// TscClock: finding the frequency of the host's time stamp counter.
#include "engine/soft/runtime/tsc_clock.h"

#include <ctime>

#include <cpuid.h>

namespace strata::engine::soft {
namespace {

std::uint64_t khz_from_cpuid() {
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
    // SDM 2A, CPUID 15h: TSC = crystal (ECX, Hz) * EBX / EAX.
    if (__get_cpuid_max(0, nullptr) >= 0x15) {
        __cpuid_count(0x15, 0, a, b, c, d);
        if (a != 0 && b != 0 && c != 0) {
            return static_cast<std::uint64_t>(c) * b / a / 1000;
        }
    }
    return 0;
}

struct Sample {
    std::uint64_t tsc = 0, ns = 0, width = ~0ULL;
};

// A pair of readings taken as close together as five tries allow.
Sample sample() {
    Sample best;
    for (int i = 0; i < 5; ++i) {
        const std::uint64_t before = host_tsc();
        const std::uint64_t ns = monotonic_ns();
        const std::uint64_t after = host_tsc();
        if (after - before < best.width) {
            best = {before + (after - before) / 2, ns, after - before};
        }
    }
    return best;
}

std::uint64_t measure() {
    const Sample start = sample();
    const timespec pause{0, 20'000'000};
    (void)nanosleep(&pause, nullptr);  // an interrupted sleep only makes the measurement shorter
    const Sample end = sample();
    return (end.tsc - start.tsc) * 1000000U / (end.ns - start.ns);
}

}  // namespace

std::uint64_t monotonic_ns() noexcept {
    timespec now{};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);  // cannot fail with this clock
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
           static_cast<std::uint64_t>(now.tv_nsec);
}

std::uint64_t host_tsc_khz() noexcept {
    static const std::uint64_t khz = [] {
        const std::uint64_t known = khz_from_cpuid();
        return known != 0 ? known : measure();
    }();
    return khz;
}

}  // namespace strata::engine::soft
