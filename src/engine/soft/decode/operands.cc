// Operands: registers and memory.
#include "engine/soft/decode/operands.h"

#include "arch/x86/arch_state.h"

namespace strata::engine::soft {
namespace {

/// GPR number of a register operand, or -1; `high` for AH..BH.
int gpr_number(ZydisRegister reg, bool& high) {
    high = reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
    switch (ZydisRegisterGetClass(reg)) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64: {
            const ZydisRegister full =
                ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
            return full - ZYDIS_REGISTER_RAX;
        }
        default:
            return -1;
    }
}

std::uint8_t segment_number(ZydisRegister reg) {
    switch (reg) {
        case ZYDIS_REGISTER_ES:
            return arch::x86::Es;
        case ZYDIS_REGISTER_CS:
            return arch::x86::Cs;
        case ZYDIS_REGISTER_SS:
            return arch::x86::Ss;
        case ZYDIS_REGISTER_FS:
            return arch::x86::Fs;
        case ZYDIS_REGISTER_GS:
            return arch::x86::Gs;
        default:
            return arch::x86::Ds;
    }
}

constexpr std::uint16_t bit(int reg) {
    return static_cast<std::uint16_t>(1U << static_cast<unsigned>(reg));
}

bool reads(const ZydisDecodedOperand& op) {
    return (op.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
}
bool writes(const ZydisDecodedOperand& op) {
    return (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

std::int8_t address_register(ZydisRegister reg, bool& vector) {
    if (reg == ZYDIS_REGISTER_NONE) {
        return kNoRegister;
    }
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP) {
        return kRipRegister;
    }
    bool high = false;
    const int number = gpr_number(reg, high);
    vector = number < 0;
    return static_cast<std::int8_t>(number < 0 ? ZydisRegisterGetId(reg) : number);
}

}  // namespace

void take_register(const ZydisDecodedOperand& op, Instruction& insn) {
    bool high = false;
    const int number = gpr_number(op.reg.value, high);
    if (number < 0) {
        return;
    }
    insn.uses_high_byte |= high;
    if (reads(op)) {
        insn.gpr_read |= bit(number);
    }
    if (writes(op)) {
        insn.gpr_write |= bit(number);
        if (op.size < 32 || (op.actions & ZYDIS_OPERAND_ACTION_CONDWRITE) != 0) {
            insn.gpr_read |= bit(number);
        }
    }
    switch (op.encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            insn.reg_is_gpr = true;
            insn.reg_is_high = high;
            insn.reg_size = static_cast<std::uint8_t>(op.size / 8U);
            break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
            insn.rm_is_gpr = true;
            insn.rm &= 15U;  // EVEX.X extends vector registers only
            insn.rm_is_high = high;
            break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            insn.vvvv_is_gpr = true;
            break;
        case ZYDIS_OPERAND_ENCODING_OPCODE:
            insn.opcode_reg_is_gpr = true;
            break;
        default:
            break;
    }
}

void take_memory(const ZydisDecodedOperand& op, Instruction& insn) {
    bool vector = false;
    // The decoder takes SIB base 5 with mod 0, which is no base but a displacement, for r13d under
    // a 67 prefix with REX.B.
    const bool no_base =
        insn.sib_offset != kNoOffset && insn.mod == 0 && (insn.bytes[insn.sib_offset] & 7U) == 5;
    const std::int8_t base = no_base ? kNoRegister : address_register(op.mem.base, vector);
    const std::int8_t index = address_register(op.mem.index, vector);
    if (base >= 0 && base < 16) {
        insn.gpr_read |= bit(base);
    }
    if (index >= 0 && !vector) {
        insn.gpr_read |= bit(index);
    }
    const bool is_explicit = op.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                             op.encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64;
    if (!is_explicit || insn.mem.present) {
        return;
    }
    MemoryOperand& mem = insn.mem;
    mem.present = true;
    mem.vsib = op.mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    const bool touches = op.mem.type == ZYDIS_MEMOP_TYPE_MEM || mem.vsib;
    mem.read = touches && reads(op);
    mem.write = touches && writes(op);
    mem.base = base;
    mem.index = index;
    mem.scale = op.mem.scale == 0 ? std::uint8_t{1} : op.mem.scale;
    mem.segment = segment_number(op.mem.segment);
    mem.size = static_cast<std::uint16_t>(op.size / 8U);
    mem.element_size = static_cast<std::uint16_t>(op.element_size / 8U);
    mem.displacement = op.mem.disp.has_displacement ? op.mem.disp.value : 0;
    if (no_base) {
        std::int32_t displacement = 0;
        __builtin_memcpy(&displacement, insn.bytes + insn.sib_offset + 1, sizeof(displacement));
        mem.displacement = displacement;
    }
    insn.element_count = op.element_count;
}

}  // namespace strata::engine::soft
