// PmTimer: the counter, computed.
#include "devices/timer/pm_timer.h"

#include "devices/core/ticks.h"
#include "devices/core/windows.h"

namespace strata::devices {
namespace {

constexpr unsigned kTopBit = 31;

}  // namespace

std::uint64_t PmTimer::ticks() const {
    return to_ticks(clock_.now(), kFrequency);
}

std::uint32_t PmTimer::value() const {
    return static_cast<std::uint32_t>(ticks());
}

std::uint64_t PmTimer::carries() const {
    return ticks() >> kTopBit;
}

std::uint64_t PmTimer::next_carry() const {
    return from_ticks((carries() + 1) << kTopBit, kFrequency);
}

void PmTimer::read(std::uint64_t offset, std::span<std::byte> data) {
    const std::uint64_t present = offset < kSize ? value() >> (8 * offset) : 0;
    from_integer(present, data);
}

void PmTimer::write(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) {
}  // 4.8.3.3: read-only

}  // namespace strata::devices
