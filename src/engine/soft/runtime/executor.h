// Executor: the seam between a vCPU's run loop and what executes guest code: the interpreter alone, or the translator.
//
// The run loop (soft_vcpu.cc) looks at CpuState::request, delivers exceptions and interrupts, parks halted vCPUs, and calls
// run() for everything between. Rules for an executor:
//   - it returns Polled soon after `request` becomes non-zero (interpreter: the next instruction; blocks: the next poll);
//   - it returns Polled when an interrupt window opens: cpu.interrupt_window == 1 and interrupts_open(cpu) (checked after
//     STI, POPF, IRET, SYSRET and whatever ends in StepResult::EndBlock, and after the instruction under the shadow), or
//     cpu.interrupt_window == 2 and an EndBlock instruction ran (it may have been MOV to CR8). window_open() says it all;
//   - it never delivers anything itself; a pending exception is left in cpu.exception with registers exact.
#pragma once

#include <cstdint>

#include "engine/soft/interp/interpreter.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// Why the executor came back.
enum class ExecResult : std::uint8_t {
    Polled,       ///< a request bit, an interrupt window, or the executor's own wish to be called again
    Exception,    ///< cpu.exception is pending
    Halted,       ///< cpu.halted is set
    TripleFault,
};

class Executor {
  public:
    virtual ~Executor() = default;
    /// Runs guest code from CS:RIP. On the vCPU's own thread; no request bit that needs work was set just before.
    virtual ExecResult run(CpuState& cpu) noexcept = 0;
    /// For VcpuCounters::blocks_translated; relaxed, any thread.
    [[nodiscard]] virtual std::uint64_t blocks_translated() const noexcept { return 0; }
};

/// Whether the run loop must look for interrupts after an instruction that ended in EndBlock (`mode_changed`) or otherwise.
inline bool window_open(const CpuState& cpu, bool mode_changed) noexcept {
    return (cpu.interrupt_window == 1 && interrupts_open(cpu)) || (cpu.interrupt_window == 2 && mode_changed);
}

/// One instruction after the other through interpret_one().
class InterpreterExecutor final : public Executor {
  public:
    ExecResult run(CpuState& cpu) noexcept override;
};

}  // namespace strata::engine::soft
