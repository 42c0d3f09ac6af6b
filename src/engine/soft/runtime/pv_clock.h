// PvClock: kvmclock: the paravirtual clock that KVM guests know, as a function of the host's TSC.
//
// All vCPUs show one pair (host TSC, nanoseconds), so the clock is the same everywhere and flagged
// stable. Linux Documentation/virt/kvm/x86/msr.rst.
#pragma once

#include <cstdint>

#include "memory/guest_ram.h"

namespace strata::engine::soft {

/// Nanoseconds = (cycles shifted by `shift`) * multiplier / 2^32.
struct PvScale {
    std::uint32_t multiplier = 0;
    std::int8_t shift = 0;
};
[[nodiscard]] PvScale pv_scale(std::uint64_t tsc_khz) noexcept;
[[nodiscard]] std::uint64_t pv_scale_cycles(const PvScale& scale, std::uint64_t cycles) noexcept;

class PvClock {
  public:
    explicit PvClock(std::uint64_t tsc_khz);

    /// Nanoseconds since the machine was made, not counting times between stop and set().
    [[nodiscard]] std::uint64_t now() const noexcept;
    /// Continues from `nanoseconds`. While no vCPU runs; pages must be written again.
    void set(std::uint64_t nanoseconds) noexcept;
    /// Changes with every set(): whose page was written under another number is stale.
    [[nodiscard]] std::uint32_t generation() const noexcept { return generation_; }

    /// Fills the vCPU's structure at `address`, for a guest TSC of host TSC + `tsc_offset`.
    /// Addresses outside of RAM: nothing.
    void write_page(memory::GuestRam& ram, std::uint64_t address,
                    std::uint64_t tsc_offset) const noexcept;
    /// The wall-clock time at which now() was 0.
    void write_wall_clock(memory::GuestRam& ram, std::uint64_t address) const noexcept;

  private:
    PvScale scale_;
    std::uint64_t base_tsc_;  // host TSC at which the clock was base_ns_
    std::uint64_t base_ns_ = 0;
    std::uint32_t generation_ = 1;
};

}  // namespace strata::engine::soft
