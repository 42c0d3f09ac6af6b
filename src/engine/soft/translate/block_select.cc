// BlockEmitter: which instructions a block can hold, and in what form.
#include <Zydis/Zydis.h>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint16_t kInMemory = 0x0E00;  // guest r9, r10, r11
constexpr std::uint32_t kMaxAccess = 64;

bool vector_allowed(const Instruction& insn, std::uint32_t mode) {
    constexpr std::uint32_t kNeedAvx = 3, kNeedAvx512 = 31;
    if ((mode & ModeBits::kFpuBlocked) != 0) {
        return false;
    }
    const std::uint32_t xcr0 = mode >> ModeBits::kXcr0Shift;
    const bool xsave = (mode & ModeBits::kXsave) != 0;
    switch (insn.vector) {
        case VectorKind::None:
        case VectorKind::X87:
        case VectorKind::Mmx:
            return true;
        case VectorKind::Sse:
            return (mode & ModeBits::kSse) != 0;
        case VectorKind::Avx:
            return xsave && (xcr0 & kNeedAvx) == kNeedAvx;
        case VectorKind::Avx512:
            return xsave && (xcr0 & kNeedAvx512) == kNeedAvx512;
    }
    return false;
}

bool copyable(const Instruction& insn) {
    const bool memory = touches_memory(insn);
    if (insn.mem.present && !memory) {
        return false;
    }
    if (memory && (insn.mem.vsib || access_bytes(insn) == 0 || access_bytes(insn) > kMaxAccess)) {
        return false;
    }
    const int held = __builtin_popcount(data_registers(insn) & kInMemory);
    if (held > (memory ? 1 : 2)) {
        return false;
    }
    Rewrite rewrite;
    rewrite.memory = Mem::at(insn.uses_high_byte ? Rsi : R10);
    return can_rewrite(insn, rewrite);
}

bool has_operand_size_prefix(const Instruction& insn) {
    for (std::uint8_t i = 0; i < insn.opcode_offset; ++i) {
        if (insn.bytes[i] == 0x66) {
            return true;
        }
    }
    return false;
}

}  // namespace

bool can_translate(const Instruction& insn, std::uint32_t mode) {
    switch (insn.cls) {
        case InsnClass::Copy:
            return copyable(insn);
        case InsnClass::CopyVector:
            return copyable(insn) && vector_allowed(insn, mode);
        case InsnClass::Special:
            return masked_copy(insn) && copyable(insn) && vector_allowed(insn, mode);
        case InsnClass::Nop:
        case InsnClass::Fence:
            return true;
        case InsnClass::Lea:
            return insn.address_size >= 4;
        case InsnClass::Jcc:
        case InsnClass::Jmp:
            return !has_operand_size_prefix(insn);
        case InsnClass::JmpIndirect:
        case InsnClass::CallIndirect:
            return !has_operand_size_prefix(insn) &&
                   (!insn.mem.present || (insn.mem.size == 8 && insn.address_size >= 4));
        case InsnClass::Call:
        case InsnClass::Ret:
            return insn.stack_size == 8 && !has_operand_size_prefix(insn);
        case InsnClass::Loop:
            return insn.address_size == 8 &&
                   (insn.mnemonic == ZYDIS_MNEMONIC_LOOP || insn.mnemonic == ZYDIS_MNEMONIC_JRCXZ);
        case InsnClass::Stack:
            if (insn.stack_size != 8 || has_operand_size_prefix(insn)) {
                return false;
            }
            return insn.mnemonic == ZYDIS_MNEMONIC_PUSH || insn.mnemonic == ZYDIS_MNEMONIC_LEAVE ||
                   (insn.mnemonic == ZYDIS_MNEMONIC_POP && !insn.mem.present);
        default:
            return false;
    }
}

bool can_interpret_in_place(const Instruction& insn) {
    if (insn.mnemonic == ZYDIS_MNEMONIC_HLT) {
        return false;
    }
    switch (insn.cls) {
        case InsnClass::Copy:
        case InsnClass::CopyVector:
        case InsnClass::Lea:
        case InsnClass::Special:
        case InsnClass::String:
        case InsnClass::Stack:
        case InsnClass::Segment:
        case InsnClass::System:
        case InsnClass::Io:
            return true;
        default:
            return false;
    }
}

}  // namespace strata::engine::soft
