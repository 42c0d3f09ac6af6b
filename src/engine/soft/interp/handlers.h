// Handlers: which function executes which instruction. One select function per file of meanings.
#pragma once

#include "engine/soft/interp/context.h"

namespace strata::engine::soft {

/// The function that executes `insn`; never null (#UD for what has no meaning).
[[nodiscard]] Handler select_handler(const Instruction& insn) noexcept;

// Per file; null: not one of mine.
[[nodiscard]] Handler select_fast(
    const Instruction& insn) noexcept;  ///< fast_integer.cc: common integer forms
[[nodiscard]] Handler select_flow(
    const Instruction& insn) noexcept;  ///< flow.cc: near control flow
[[nodiscard]] Handler select_far(
    const Instruction& insn) noexcept;  ///< far_flow.cc, far_return.cc, call_in.cc
[[nodiscard]] Handler select_far_return(const Instruction& insn) noexcept;
[[nodiscard]] Handler select_call_in(const Instruction& insn) noexcept;
[[nodiscard]] Handler select_stack(const Instruction& insn) noexcept;    ///< stack.cc
[[nodiscard]] Handler select_string(const Instruction& insn) noexcept;   ///< strings.cc
[[nodiscard]] Handler select_io(const Instruction& insn) noexcept;       ///< port_io.cc
[[nodiscard]] Handler select_segment(const Instruction& insn) noexcept;  ///< segment_ops.cc
[[nodiscard]] Handler select_system(
    const Instruction& insn) noexcept;  ///< system.cc, control_registers.cc, descriptor_ops.cc
[[nodiscard]] Handler select_control_register(const Instruction& insn) noexcept;
[[nodiscard]] Handler select_descriptor(const Instruction& insn) noexcept;
[[nodiscard]] Handler select_special(
    const Instruction& insn) noexcept;  ///< special.cc, vector_memory.cc, state_images.cc
[[nodiscard]] Handler select_vector_memory(const Instruction& insn) noexcept;
[[nodiscard]] Handler select_state_image(const Instruction& insn) noexcept;

/// Runs the instruction itself on the host CPU (host_run.cc): class Copy and CopyVector.
StepResult op_on_host(CpuState& cpu, Op& op) noexcept;
StepResult op_undefined(CpuState& cpu, Op& op) noexcept;
StepResult op_nop(CpuState& cpu, Op& op) noexcept;

/// Whether condition `code` (the low nibble of Jcc, SETcc, CMOVcc) holds for `flags`.
[[nodiscard]] bool condition_holds(std::uint64_t flags, unsigned code) noexcept;

/// #UD, #NM by CR0, CR4, XCR0 for an instruction that needs `insn.vector`. True: go on.
[[nodiscard]] bool vector_allowed(CpuState& cpu, const Instruction& insn) noexcept;

/// Whether an unmasked x87 exception waits for the next x87 or MMX instruction, which then raises
/// #MF before anything else.
[[nodiscard]] bool x87_error_pending(const CpuState& cpu) noexcept;

/// Runs op's stub with its memory operand at `host` (ignored without one) on a copy of the
/// registers; on success commits registers and flags. Does not move rip. False: the exception is
/// pending.
[[nodiscard]] bool run_with_operand(CpuState& cpu, Op& op, std::byte* host) noexcept;

/// As run_with_operand, but leaves the results in `frame`: commit_frame() stores them.
[[nodiscard]] bool run_in_frame(CpuState& cpu, Op& op, std::byte* host, HostFrame& frame) noexcept;
void commit_frame(CpuState& cpu, const Op& op, const HostFrame& frame) noexcept;

}  // namespace strata::engine::soft
