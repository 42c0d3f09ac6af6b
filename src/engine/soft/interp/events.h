// Events: delivery of exceptions and interrupts, task switches: what interpreter.h promises and far
// control flow shares.
#pragma once

#include "engine/soft/interp/descriptors.h"

namespace strata::engine::soft {

enum class EventKind : std::uint8_t { Exception, Interrupt, Software };

struct Event {
    std::uint8_t vector = 0;
    EventKind kind = EventKind::Exception;
    bool has_error = false;
    std::uint32_t error = 0;
    std::uint64_t return_rip = 0;
    bool resume = false;  ///< RF is set in the pushed flags
};

/// One attempt to enter the handler. False: cpu.exception holds what went wrong, the rest of the
/// state is as before.
[[nodiscard]] bool enter_handler(CpuState& cpu, const Event& event) noexcept;

/// INT n, INT3, INTO, INT1: enters the handler from the instruction that ends at `next`.
[[nodiscard]] StepResult software_interrupt(CpuState& cpu, std::uint8_t vector,
                                            std::uint64_t next) noexcept;

enum class TaskSwitch : std::uint8_t { Jump, Call, Interrupt, Return };

/// Switches to the task of `selector` (its descriptor checked for present and type by this
/// function). SDM 3A, 7.3.
[[nodiscard]] bool switch_task(CpuState& cpu, std::uint16_t selector, TaskSwitch reason,
                               std::uint64_t return_rip) noexcept;

/// Pushes onto a stack that is not loaded yet: frames of gates. Values are written top down, all or
/// none.
class FrameWriter {
  public:
    FrameWriter(CpuState& cpu, const Segment& ss, std::uint64_t rsp, unsigned cpl, unsigned size,
                bool flat64)
        : cpu_(cpu), ss_(ss), rsp_(rsp), cpl_(cpl), size_(size), flat64_(flat64) {}
    void add(std::uint64_t value) { values_[count_++] = value; }
    /// Writes everything; rsp() is the new stack pointer then.
    [[nodiscard]] bool write() noexcept;
    [[nodiscard]] std::uint64_t rsp() const { return rsp_; }

  private:
    static constexpr unsigned kMost = 48;
    CpuState& cpu_;
    const Segment& ss_;
    std::uint64_t rsp_;
    unsigned cpl_, size_;
    bool flat64_;
    unsigned count_ = 0;
    std::uint64_t values_[kMost];
};

/// RSPn or SSn:ESPn of the current TSS for privilege `cpl`; raises #TS.
[[nodiscard]] bool read_tss_stack(CpuState& cpu, unsigned cpl, std::uint16_t& ss,
                                  std::uint64_t& rsp) noexcept;
/// A 64-bit field of the TSS at `offset` (RSPn, ISTn).
[[nodiscard]] bool read_tss64(CpuState& cpu, std::uint32_t offset, std::uint64_t& value) noexcept;

}  // namespace strata::engine::soft
