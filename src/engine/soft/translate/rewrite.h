// Rewrite: emits a guest instruction with other registers and another memory operand.
//
// The opcode, immediates and prefixes that are part of the opcode are copied; REX, VEX or EVEX and
// ModRM are made anew. Segment overrides and address-size prefixes go: the address has been
// computed before. SDM 2A, chapter 2.
#pragma once

#include <cstdint>

#include "engine/soft/decode/instruction.h"
#include "engine/soft/emit/assembler.h"

namespace strata::engine::soft {

struct Rewrite {
    /// Host register of each guest register.
    Reg home[16] = {Reg::Rax, Reg::Rcx, Reg::Rdx, Reg::Rbx, Reg::R9,  Reg::Rbp, Reg::Rsi, Reg::Rdi,
                    Reg::R8,  Reg::R9,  Reg::R10, Reg::R11, Reg::R12, Reg::R13, Reg::R14, Reg::R15};
    /// What replaces the memory operand. Relative to gs only without registers and for legacy
    /// encodings.
    Mem memory;
};

/// Whether the instruction can be written that way at all (AH..BH exclude every register that needs
/// REX).
[[nodiscard]] bool can_rewrite(const Instruction& insn, const Rewrite& rewrite);
/// Emits it; can_rewrite() said yes. `insn` is Copy, CopyVector or Fence.
void emit_rewritten(Assembler& a, const Instruction& insn, const Rewrite& rewrite);

}  // namespace strata::engine::soft
