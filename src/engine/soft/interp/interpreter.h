// Interpreter: executes one guest instruction at a time, in any mode: the reference the translator
// is compared with.
//
// Works on CpuState only; memory through mmu/. Data-processing instructions are run on the host CPU
// itself by short cached stubs, on copied register values and a copied (or, for locked and
// naturally aligned accesses, the real) memory operand; control flow, strings, segments and system
// instructions have hand-written meaning. All functions run on the vCPU's own thread.
//
// Vector contract: callable while guest vector values are live in host registers (cpu.vector_live).
// interp/ is compiled for general registers only and calls save_vector_state() before anything that
// is not; what was not live at entry is not live at return, what was live may be in cpu.xsave
// afterwards: look at vector_live.
#pragma once

#include <cstdint>

#include "engine/soft/decode/instruction.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// What one step ended in.
enum class StepResult : std::uint8_t {
    Done,  ///< executed; rip moved on (a REP instruction may have done a part and left rip where it
           ///< was)
    Exception,  ///< cpu.exception is pending; registers are as before the instruction (or as its
                ///< trap says)
    Halted,     ///< HLT: cpu.halted is set
    TripleFault,
    EndBlock,  ///< executed, and it changed what translated code depends on (mode, paging, TLB,
               ///< interrupt flag): look up anew
};

/// Allocates what the calling thread needs to interpret for `cpu` (memfd, mappings, signal stack):
/// before a sandbox closes.
void prepare_interpreter_thread(CpuState& cpu) noexcept;

/// Executes the instruction at CS:RIP. Does not look at `request`, does not deliver interrupts or
/// exceptions.
StepResult interpret_one(CpuState& cpu) noexcept;

/// A decoded instruction with its handler (context.h).
struct Op;
/// Whether execute_decoded() can take it: a handler that needs no host stub of the thread's own.
[[nodiscard]] bool has_plain_handler(const Instruction& insn) noexcept;
/// Fills `op` with `insn` and its handler; it may then be used by several threads.
void prepare_decoded(const Instruction& insn, Op& op) noexcept;
/// As interpret_one() for the instruction at cpu.rip, which is known to be `op`'s.
StepResult execute_decoded(CpuState& cpu, Op& op) noexcept;

/// Delivers cpu.exception (IDT or IVT, stack switch, IST, error code, #DF promotion) and clears it.
/// TripleFault if that fails.
StepResult deliver_exception(CpuState& cpu) noexcept;
/// Delivers external interrupt or NMI `vector` through the IDT; the caller checked IF and the
/// shadow.
StepResult deliver_interrupt(CpuState& cpu, std::uint8_t vector) noexcept;

}  // namespace strata::engine::soft
