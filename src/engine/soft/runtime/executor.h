// Executor: the seam between a vCPU's run loop and what executes guest code: the interpreter alone,
// or the translator.
//
// The run loop (soft_vcpu.cc) looks at CpuState::request, delivers exceptions and interrupts, parks
// halted vCPUs, and calls run() for everything between. Rules for an executor:
//   - it returns Polled soon after `request` becomes non-zero (interpreter: the next instruction;
//   blocks: the next poll);
//   - it returns Polled when window_open(): checked after whatever ends in StepResult::EndBlock
//   (STI, POPF, IRET, SYSRET, MOV to
//     CR8 …) and their translated forms. The loop itself steps over an interrupt shadow;
//   - it never delivers anything itself; a pending exception is left in cpu.exception with
//   registers exact.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/soft/interp/interpreter.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// Why the executor came back.
enum class ExecResult : std::uint8_t {
    Polled,  ///< a request bit, an interrupt window, or the executor's own wish to be called again
    Exception,  ///< cpu.exception is pending
    Halted,     ///< cpu.halted is set
    TripleFault,
};

class Executor {
  public:
    virtual ~Executor() = default;
    /// What run() needs of the calling thread; see Vcpu::prepare_thread().
    virtual void prepare_thread(CpuState& cpu) noexcept { prepare_interpreter_thread(cpu); }
    /// Runs guest code from CS:RIP. On the vCPU's own thread; no request bit that needs work was
    /// set just before.
    virtual ExecResult run(CpuState& cpu) noexcept = 0;
    /// Request bits were set just now: what does not poll them has to be stopped. Any thread.
    virtual void kick() noexcept {}
    /// For VcpuCounters::blocks_translated; relaxed, any thread.
    [[nodiscard]] virtual std::uint64_t blocks_translated() const noexcept { return 0; }
    /// For VcpuCounters::direct_runs; relaxed, any thread.
    [[nodiscard]] virtual std::uint64_t direct_runs() const noexcept { return 0; }
};

/// Whether the run loop must look for interrupts after an instruction; `mode_changed`: it ended in
/// EndBlock.
inline bool window_open(const CpuState& cpu, bool mode_changed) noexcept {
    return ((cpu.interrupt_window & 2) != 0 && mode_changed) ||
           ((cpu.interrupt_window & 1) != 0 && (cpu.rflags & (1U << 9)) != 0);
}

class CodeInvalidator;

/// Makes the executors of a machine's vCPUs; owns what they share.
class ExecutorFactory {
  public:
    virtual ~ExecutorFactory() = default;
    /// Before any vCPU runs; `cpu` outlives the executor, the executor does not outlive the
    /// factory.
    virtual std::unique_ptr<Executor> make_executor(CpuState& cpu) = 0;
    /// Who has to hear of writes to code; null if nothing is made of it.
    [[nodiscard]] virtual CodeInvalidator* invalidator() = 0;
};

/// One instruction after the other through interpret_one().
class InterpreterExecutor final : public Executor {
  public:
    ExecResult run(CpuState& cpu) noexcept override;
};

}  // namespace strata::engine::soft
