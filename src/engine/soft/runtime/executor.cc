// InterpreterExecutor: runs guest code one instruction at a time.
#include "engine/soft/runtime/executor.h"

namespace strata::engine::soft {

ExecResult InterpreterExecutor::run(CpuState& cpu) noexcept {
    do {
        switch (interpret_one(cpu)) {
            case StepResult::Done:
                break;
            case StepResult::EndBlock:
                if (window_open(cpu, true)) {
                    return ExecResult::Polled;
                }
                break;
            case StepResult::Exception:
                return ExecResult::Exception;
            case StepResult::Halted:
                return ExecResult::Halted;
            case StepResult::TripleFault:
                return ExecResult::TripleFault;
        }
        // relaxed: the run loop reads it again, with acquire.
    } while (cpu.request.load(std::memory_order_relaxed) == 0);
    return ExecResult::Polled;
}

}  // namespace strata::engine::soft
