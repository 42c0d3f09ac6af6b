// BlockEmitter: guest registers that live in memory as memory operands, and addresses that go into
// registers.
#include <utility>

#include <Zydis/Zydis.h>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint16_t kInMemory = 0x0E00;  // guest r9, r10, r11

Reg home_of(unsigned guest) {
    return Rewrite{}.home[guest];
}
bool in_memory(unsigned guest) {
    return ((kInMemory >> guest) & 1U) != 0;
}

bool is_test(const Instruction& insn) {
    return insn.opcode == 0x84 || insn.opcode == 0x85;
}

// Whether the two operands can change places: ALU and MOV by the opcode's direction bit, TEST as it
// is.
bool swappable(const Instruction& insn) {
    return insn.opcode_map == 0 && ((insn.opcode < 0x40 && (insn.opcode & 7) < 4) ||
                                    (insn.opcode >= 0x88 && insn.opcode <= 0x8B) || is_test(insn));
}

// Whether a memory operand in the place of the register ModRM.rm means the same (of XCHG and BT it
// does not).
bool has_memory_form(const Instruction& insn) {
    const std::uint8_t opcode = insn.opcode;
    if (insn.opcode_map == 1) {
        return (opcode >= 0x40 && opcode <= 0x4F) || (opcode >= 0x90 && opcode <= 0x9F) ||
               opcode == 0xAF || opcode == 0xB6 || opcode == 0xB7 || opcode == 0xBE ||
               opcode == 0xBF;
    }
    if (insn.opcode_map != 0) {
        return false;
    }
    switch (opcode) {
        case 0x63:
        case 0x69:
        case 0x6B:
        case 0x80:
        case 0x81:
        case 0x83:
        case 0xC0:
        case 0xC1:
        case 0xC6:
        case 0xC7:
        case 0xD0:
        case 0xD1:
        case 0xD2:
        case 0xD3:
        case 0xF6:
        case 0xF7:
        case 0xFE:
            return true;
        case 0xFF:
            return insn.mnemonic == ZYDIS_MNEMONIC_INC || insn.mnemonic == ZYDIS_MNEMONIC_DEC;
        default:
            return swappable(insn);
    }
}

}  // namespace

bool BlockEmitter::emit_on_home(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const bool two_fields = insn.cls == InsnClass::Copy && insn.encoding == Encoding::Legacy &&
                            !insn.mem.present && insn.modrm_offset != kNoOffset && insn.mod == 3 &&
                            insn.rm_is_gpr && !insn.opcode_reg_is_gpr && !insn.uses_high_byte &&
                            !insn.lock;
    if (!two_fields || !has_memory_form(insn)) {
        return false;
    }
    const bool rm_held = in_memory(insn.rm), reg_held = insn.reg_is_gpr && in_memory(insn.reg);
    if (rm_held == reg_held || (reg_held && !swappable(insn))) {
        return false;
    }
    Instruction on_memory = insn;
    if (reg_held) {
        std::swap(on_memory.reg, on_memory.rm);
        if (!is_test(insn)) {
            on_memory.bytes[insn.opcode_offset] ^= 2;
        }
    }
    const unsigned held = on_memory.rm;
    if (((insn.gpr_write >> held) & 1U) != 0 && insn.operand_size == 4) {
        return false;  // the upper half becomes zero
    }
    on_memory.mem.present = true;
    Rewrite rewrite;
    rewrite.memory = layout::gpr(held);
    mark(current_);
    emit_rewritten(a_, on_memory, rewrite);
    return true;
}

void BlockEmitter::emit_lea(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const unsigned to = insn.reg;
    const MemoryOperand& mem = insn.mem;
    const auto held = [](std::int8_t reg) {
        return reg >= 0 && reg < 16 && in_memory(static_cast<unsigned>(reg));
    };
    if (insn.operand_size == 8 && insn.address_size == 8 && mem.base >= 0 && mem.base < 16 &&
        !held(mem.base) && !held(mem.index) && !in_memory(to)) {
        Mem ea = Mem::at(home_of(static_cast<unsigned>(mem.base)),
                         static_cast<std::int32_t>(mem.displacement));
        if (mem.index >= 0) {
            ea.index = static_cast<std::int8_t>(home_of(static_cast<unsigned>(mem.index)));
            ea.scale = mem.scale;
        }
        a_.lea(home_of(to), ea);
        return;
    }
    Unit plain = unit;
    plain.insn.mem.segment = 3;  // LEA ignores segments
    address_of_operand(plain);
    if (in_memory(to) && insn.operand_size >= 4) {
        if (insn.operand_size == 4) {
            a_.mov32(R10, R10);
        }
        a_.store(layout::gpr(to), R10);
        return;
    }
    const Reg home = in_memory(to) ? R11 : home_of(to);
    switch (insn.operand_size) {
        case 8:
            a_.mov(home, R10);
            break;
        case 4:
            a_.mov32(home, R10);
            break;
        default:
            if (in_memory(to)) {
                a_.load(home, layout::gpr(to));
            }
            a_.op(OpSize::Bits32, 0x8B, Assembler::raw(home), R10, 0x66);
            break;
    }
    if (in_memory(to)) {
        a_.store(layout::gpr(to), home);
    }
}

}  // namespace strata::engine::soft
