// BlockEmitter: system instructions: calls of their handlers, and those that are done in place.
#include <Zydis/Zydis.h>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

}  // namespace

bool leaves_block(const Instruction& insn) { return insn.cls == InsnClass::FarFlow || insn.mnemonic == ZYDIS_MNEMONIC_HLT; }

// The helper has left if the instruction did anything that the rest of the block could depend on.
void BlockEmitter::emit_system(const Unit& unit) {
    if (unit.need_before != FlagsNeed::None) {
        put_away_flags();
    }
    const bool last = current_ + 1 == units_.size();
    a_.mov_imm(R11, unit.rip);
    a_.mov_imm(R10, reinterpret_cast<std::uint64_t>(unit.op) | (last ? SystemWord::kLast : 0));
    if (leaves_block(unit.insn)) {
        a_.jmp_to(glue_.transfer);
        ended_ = true;
        return;
    }
    a_.call_to(glue_.system);
    host_valid_ = false;
    memory_valid_ = true;
    if (unit.need_after == FlagsNeed::Host) {
        a_.push(layout::flags());
        a_.popfq();
        host_valid_ = true;
    }
}

}  // namespace strata::engine::soft
