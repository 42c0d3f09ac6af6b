// Paravirt: the KVM paravirtual registers of one vCPU: kvmclock, steal time with PV TLB flush, PV
// EOI, poll control.
//
// The guest names addresses; each structure must lie in RAM, whole, when it is written. Async page
// faults are refused: the soft engine never has a page to wait for. On the vCPU's own thread, or
// while it does not run.
#pragma once

#include <cstdint>

#include "engine/soft/apic/local_apic.h"
#include "engine/soft/runtime/pv_clock.h"
#include "engine/soft/runtime/steal_clock.h"
#include "memory/guest_ram.h"

namespace strata::engine::soft {

class Paravirt {
  public:
    Paravirt(memory::GuestRam& ram, const PvClock& clock, LocalApic& apic, CpuState& cpu)
        : ram_(ram), clock_(clock), apic_(apic), cpu_(cpu) {}

    [[nodiscard]] bool read(std::uint32_t index, std::uint64_t& value) const noexcept;
    [[nodiscard]] bool write(std::uint32_t index, std::uint64_t value) noexcept;
    void reset() noexcept;

    /// Writes the clock's page anew if the clock or (with `force`) the TSC moved.
    void refresh_clock(bool force) noexcept;
    /// The vCPU goes to sleep: other vCPUs may leave TLB flushes for it. / It runs again: true if
    /// it has to flush its TLB.
    void sleeping() noexcept;
    [[nodiscard]] bool awake() noexcept;
    /// From now on the calling thread is the vCPU's. / Tells the guest what the host has stolen of
    /// its time since the last call.
    void follow_this_thread() noexcept { steal_clock_.open_for_this_thread(); }
    void account_steal() noexcept;
    /// While restoring a state the wall clock is not written: the guest read it long ago.
    void set_restoring(bool restoring) noexcept { restoring_ = restoring; }

  private:
    memory::GuestRam& ram_;
    const PvClock& clock_;
    LocalApic& apic_;
    CpuState& cpu_;
    std::uint64_t wall_clock_ = 0;
    std::uint64_t system_time_ = 0;
    std::uint64_t steal_time_ = 0;
    std::uint64_t poll_control_ = 1;
    std::atomic<std::uint8_t>* preempted_ = nullptr;
    std::uint64_t steal_page_ = 0;  ///< its place in RAM while preempted_ is set
    StealClock steal_clock_;
    std::uint32_t clock_generation_ = 0;
    bool restoring_ = false;
};

}  // namespace strata::engine::soft
