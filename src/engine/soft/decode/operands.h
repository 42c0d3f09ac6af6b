// Operands: what Zydis says of one operand goes into an Instruction.
#pragma once

#include <Zydis/Zydis.h>

#include "engine/soft/decode/instruction.h"

namespace strata::engine::soft {

/// Which general registers are read and written, and where in the encoding each is named.
void take_register(const ZydisDecodedOperand& op, Instruction& insn);
/// The address's registers, and of the explicit memory operand everything. Encoding and prefixes
/// are in `insn` already.
void take_memory(const ZydisDecodedOperand& op, Instruction& insn);

}  // namespace strata::engine::soft
