// decode(): from Zydis's answer to an Instruction.
#include "engine/soft/decode/instruction.h"

#include <Zydis/Zydis.h>

#include "arch/x86/arch_state.h"
#include "engine/soft/decode/classify.h"
#include "engine/soft/decode/operands.h"
#include "engine/soft/decode/zydis_decoders.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kMaxLength = 15;

DecodeStatus status_of(ZyanStatus status) {
    if (status == ZYDIS_STATUS_NO_MORE_DATA) {
        return DecodeStatus::Truncated;
    }
    return status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? DecodeStatus::TooLong
                                                       : DecodeStatus::Invalid;
}

std::uint8_t implicit_segment(ZydisInstructionAttributes attributes, CodeMode mode) {
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) != 0) {
        return arch::x86::Fs;
    }
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) {
        return arch::x86::Gs;
    }
    if (mode == CodeMode::Bits64) {
        return arch::x86::Ds;
    }
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES) != 0) {
        return arch::x86::Es;
    }
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) != 0) {
        return arch::x86::Cs;
    }
    return (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS) != 0 ? arch::x86::Ss : arch::x86::Ds;
}

void copy_prefixes(const ZydisDecodedInstruction& z, Instruction& insn) {
    for (unsigned i = 0; i < z.raw.prefix_count; ++i) {
        const bool mandatory = z.raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY;
        switch (z.raw.prefixes[i].value) {
            case 0x66:
                insn.mandatory_66 |= mandatory;
                break;
            case 0xf2:
                insn.raw_f2 = true;
                insn.mandatory_f2 |= mandatory;
                break;
            case 0xf3:
                insn.raw_f3 = true;
                insn.mandatory_f3 |= mandatory;
                break;
            default:
                break;
        }
    }
    insn.lock = (z.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    insn.rep = (z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0;
    insn.repne = (z.attributes & ZYDIS_ATTRIB_HAS_REPNE) != 0;
    insn.segment_override = (z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT) != 0;
    insn.implicit_segment = implicit_segment(z.attributes, insn.mode);
    insn.privileged = (z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0;
}

/// What a prefix adds to the numbers of registers in ModRM, SIB and the opcode.
struct Extensions {
    bool r = false, x = false, b = false, r2 = false;
};

// Zydis keeps the extension bits of VEX as they stand in the bytes in some versions and inverted in
// others: they are taken from the bytes.
Extensions copy_vex(const ZydisDecodedInstruction& z, Instruction& insn) {
    insn.encoding = Encoding::Vex;
    insn.vex_offset = z.raw.vex.offset;
    insn.vex_length = z.raw.vex.size;
    insn.opcode_offset = static_cast<std::uint8_t>(insn.vex_offset + insn.vex_length);
    const std::uint8_t* p = insn.bytes + insn.vex_offset + 1;
    const bool three = insn.vex_length == 3;
    insn.vvvv = static_cast<std::uint8_t>((~p[three ? 1 : 0] >> 3U) & 15U);
    return {.r = (p[0] & 0x80U) == 0,
            .x = three && (p[0] & 0x40U) == 0,
            .b = three && (p[0] & 0x20U) == 0};
}

Extensions copy_evex(const ZydisDecodedInstruction& z, Instruction& insn) {
    insn.encoding = Encoding::Evex;
    insn.vex_offset = z.raw.evex.offset;
    insn.vex_length = 4;
    insn.opcode_offset = static_cast<std::uint8_t>(insn.vex_offset + 4);
    const std::uint8_t* p = insn.bytes + insn.vex_offset + 1;
    insn.vvvv = static_cast<std::uint8_t>(((~p[1] >> 3U) & 15U) | ((p[2] & 8U) == 0 ? 16U : 0U));
    insn.mask = p[2] & 7U;
    insn.zeroing = (p[2] & 0x80U) != 0;
    return {.r = (p[0] & 0x80U) == 0,
            .x = (p[0] & 0x40U) == 0,
            .b = (p[0] & 0x20U) == 0,
            .r2 = (p[0] & 0x10U) == 0};
}

Extensions copy_legacy(const ZydisDecodedInstruction& z, Instruction& insn) {
    insn.encoding = Encoding::Legacy;
    // raw.prefix_count counts the REX byte as well.
    insn.opcode_offset = z.raw.prefix_count;
    if (z.opcode_map == ZYDIS_OPCODE_MAP_0F) {
        insn.opcode_offset = static_cast<std::uint8_t>(insn.opcode_offset + 1);
    } else if (z.opcode_map == ZYDIS_OPCODE_MAP_0F38 || z.opcode_map == ZYDIS_OPCODE_MAP_0F3A) {
        insn.opcode_offset = static_cast<std::uint8_t>(insn.opcode_offset + 2);
    }
    if ((z.attributes & ZYDIS_ATTRIB_HAS_REX) == 0) {
        return {};
    }
    insn.rex_offset = z.raw.rex.offset;
    insn.rex = insn.bytes[insn.rex_offset];
    return {.r = (insn.rex & 4U) != 0, .x = (insn.rex & 2U) != 0, .b = (insn.rex & 1U) != 0};
}

Extensions copy_prefix(const ZydisDecodedInstruction& z, Instruction& insn) {
    switch (z.encoding) {
        case ZYDIS_INSTRUCTION_ENCODING_VEX:
            return copy_vex(z, insn);
        case ZYDIS_INSTRUCTION_ENCODING_EVEX:
            return copy_evex(z, insn);
        default:
            return copy_legacy(z, insn);
    }
}

void copy_encoding(const ZydisDecodedInstruction& z, Instruction& insn) {
    Extensions more = copy_prefix(z, insn);
    if (insn.mode != CodeMode::Bits64) {
        more = {};
        insn.vvvv &= 7U;
    }
    insn.opcode_reg = static_cast<std::uint8_t>((z.opcode & 7U) | (more.b ? 8U : 0U));
    if ((z.attributes & ZYDIS_ATTRIB_HAS_MODRM) == 0) {
        return;
    }
    insn.modrm_offset = z.raw.modrm.offset;
    insn.mod = z.raw.modrm.mod;
    insn.reg =
        static_cast<std::uint8_t>(z.raw.modrm.reg | (more.r ? 8U : 0U) | (more.r2 ? 16U : 0U));
    insn.rm = static_cast<std::uint8_t>(
        z.raw.modrm.rm | (more.b ? 8U : 0U) |
        (insn.encoding == Encoding::Evex && insn.mod == 3 && more.x ? 16U : 0U));
    if ((z.attributes & ZYDIS_ATTRIB_HAS_SIB) != 0) {
        insn.sib_offset = z.raw.sib.offset;
    }
}

void copy_numbers(const ZydisDecodedInstruction& z, Instruction& insn) {
    if (z.raw.disp.size != 0) {
        insn.disp_offset = z.raw.disp.offset;
        insn.disp_size = static_cast<std::uint8_t>(z.raw.disp.size / 8U);
    }
    for (const auto& imm : z.raw.imm) {
        if (imm.size == 0) {
            continue;
        }
        insn.imm_offset[insn.imm_count] = imm.offset;
        insn.imm_size[insn.imm_count] = static_cast<std::uint8_t>(imm.size / 8U);
        insn.imm[insn.imm_count] =
            imm.is_signed || imm.is_relative ? imm.value.s : static_cast<std::int64_t>(imm.value.u);
        ++insn.imm_count;
    }
    if (z.cpu_flags != nullptr) {
        insn.flags_read = z.cpu_flags->tested;
        insn.flags_written = z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1 |
                             z.cpu_flags->undefined;
        insn.flags_undefined = z.cpu_flags->undefined;
    }
}

/// Which operands make the host raise #GP(0) when they are not aligned. SDM 2A, 2.4 to 2.7.
bool needs_alignment(const Instruction& insn) {
    if (insn.mem.size < 16) {
        return false;
    }
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_LDDQU:
        case ZYDIS_MNEMONIC_MOVDQU:
        case ZYDIS_MNEMONIC_MOVUPS:
        case ZYDIS_MNEMONIC_MOVUPD:
        case ZYDIS_MNEMONIC_PCMPESTRI:
        case ZYDIS_MNEMONIC_PCMPESTRM:
        case ZYDIS_MNEMONIC_PCMPISTRI:
        case ZYDIS_MNEMONIC_PCMPISTRM:
        // AMD processors take any address here, Intel's raise #GP(0): the host decides when it
        // executes the instruction.
        case ZYDIS_MNEMONIC_SHA1MSG1:
        case ZYDIS_MNEMONIC_SHA1MSG2:
        case ZYDIS_MNEMONIC_SHA1NEXTE:
        case ZYDIS_MNEMONIC_SHA1RNDS4:
        case ZYDIS_MNEMONIC_SHA256MSG1:
        case ZYDIS_MNEMONIC_SHA256MSG2:
        case ZYDIS_MNEMONIC_SHA256RNDS2:
            return false;
        case ZYDIS_MNEMONIC_CMPXCHG16B:
        case ZYDIS_MNEMONIC_FXSAVE:
        case ZYDIS_MNEMONIC_FXSAVE64:
        case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64:
            return true;
        default:
            break;
    }
    switch (insn.exception_class) {
        case ZYDIS_EXCEPTION_CLASS_SSE1:
        case ZYDIS_EXCEPTION_CLASS_AVX1:
        case ZYDIS_EXCEPTION_CLASS_E1:
        case ZYDIS_EXCEPTION_CLASS_E1NF:
            return true;
        case ZYDIS_EXCEPTION_CLASS_SSE2:
        case ZYDIS_EXCEPTION_CLASS_SSE4:
            return insn.encoding == Encoding::Legacy;
        default:
            return insn.encoding == Encoding::Legacy && insn.vector == VectorKind::Sse;
    }
}

/// What the operands change about the class the table gave.
void refine_class(const ZydisDecodedInstruction& z, Instruction& insn) {
    const bool far = z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_JMP:
            insn.cls = far                              ? InsnClass::FarFlow
                       : insn.modrm_offset != kNoOffset ? InsnClass::JmpIndirect
                                                        : InsnClass::Jmp;
            break;
        case ZYDIS_MNEMONIC_CALL:
            insn.cls = far                              ? InsnClass::FarFlow
                       : insn.modrm_offset != kNoOffset ? InsnClass::CallIndirect
                                                        : InsnClass::Call;
            break;
        case ZYDIS_MNEMONIC_RET:
            insn.cls = far ? InsnClass::FarFlow : InsnClass::Ret;
            break;
        case ZYDIS_MNEMONIC_MOV:
            if (insn.opcode_map == ZYDIS_OPCODE_MAP_0F) {
                insn.cls = InsnClass::System;  // CRn, DRn
            } else if (insn.opcode == 0x8c || insn.opcode == 0x8e) {
                insn.cls = InsnClass::Segment;
            }
            break;
        case ZYDIS_MNEMONIC_PUSH:
        case ZYDIS_MNEMONIC_POP:
            if (insn.opcode_map == ZYDIS_OPCODE_MAP_0F ||
                (insn.opcode < 0x20 && insn.modrm_offset == kNoOffset)) {
                insn.cls = InsnClass::Segment;
            }
            break;
        case ZYDIS_MNEMONIC_BSF:
        case ZYDIS_MNEMONIC_BSR:
            insn.gpr_read |= insn.gpr_write;  // a source of zero leaves the destination as it was
            break;
        case ZYDIS_MNEMONIC_BT:
        case ZYDIS_MNEMONIC_BTC:
        case ZYDIS_MNEMONIC_BTR:
        case ZYDIS_MNEMONIC_BTS:
            if (insn.mem.present && insn.imm_count == 0) {
                insn.cls = InsnClass::Special;  // the register offset reaches beyond the operand
            }
            break;
        default:
            break;
    }
    // A masked memory operand touches only some of its bytes; compress and expand touch a run of
    // them.
    if (insn.cls == InsnClass::CopyVector && insn.mask != 0 && insn.mem.present &&
        (insn.mem.read || insn.mem.write)) {
        insn.cls = InsnClass::Special;
    }
}

void take_operands(const ZydisDecoder& decoder, const ZydisDecoderContext& context,
                   const ZydisDecodedInstruction& z, Instruction& insn) {
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeOperands(&decoder, &context, &z, operands, z.operand_count))) {
        insn.cls = InsnClass::Undefined;
        return;
    }
    for (unsigned i = 0; i < z.operand_count; ++i) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            take_register(operands[i], insn);
        } else if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            take_memory(operands[i], insn);
        }
    }
}

std::uint8_t lanes_of(ZydisBroadcastMode mode) {
    switch (mode) {
        case ZYDIS_BROADCAST_MODE_1_TO_2:
            return 2;
        case ZYDIS_BROADCAST_MODE_1_TO_4:
            return 4;
        case ZYDIS_BROADCAST_MODE_1_TO_8:
            return 8;
        case ZYDIS_BROADCAST_MODE_1_TO_16:
            return 16;
        case ZYDIS_BROADCAST_MODE_1_TO_32:
            return 32;
        default:
            return 0;
    }
}

/// F3 90 with REX.B is no PAUSE: processors exchange r8 with rax and ignore the F3. Decoded with a
/// prefix that means nothing in its place.
DecodeStatus decode_exchange(const std::uint8_t* bytes, std::uint32_t length, CodeMode mode,
                             const IsaSupport& isa, Instruction& insn) {
    std::uint8_t plain[kMaxLength];
    for (std::uint32_t i = 0; i < length; ++i) {
        plain[i] = bytes[i] == 0xf3 ? std::uint8_t{0x3e} : bytes[i];
    }
    const DecodeStatus status = decode(plain, length, mode, isa, insn);
    for (std::uint32_t i = 0; i < length; ++i) {
        insn.bytes[i] = bytes[i];
    }
    return status;
}

}  // namespace

DecodeStatus decode(const std::uint8_t* bytes, std::uint32_t available, CodeMode mode,
                    const IsaSupport& isa, Instruction& insn) noexcept {
    const ZydisDecoder& decoder = decoder_for(mode, isa);
    ZydisDecoderContext context;
    ZydisDecodedInstruction z;
    const std::uint32_t usable = available < kMaxLength ? available : kMaxLength;
    const ZyanStatus status = ZydisDecoderDecodeInstruction(&decoder, &context, bytes, usable, &z);
    if (!ZYAN_SUCCESS(status)) {
        const DecodeStatus result = status_of(status);
        return result == DecodeStatus::Truncated && usable == kMaxLength ? DecodeStatus::TooLong
                                                                         : result;
    }
    if (z.mnemonic == ZYDIS_MNEMONIC_PAUSE && (z.attributes & ZYDIS_ATTRIB_HAS_REX) != 0 &&
        z.raw.rex.B != 0) {
        return decode_exchange(bytes, z.length, mode, isa, insn);
    }
    insn = Instruction{};
    insn.mode = mode;
    insn.length = z.length;
    for (unsigned i = 0; i < z.length; ++i) {
        insn.bytes[i] = bytes[i];
    }
    insn.mnemonic = static_cast<std::uint16_t>(z.mnemonic);
    insn.isa_set = static_cast<std::uint16_t>(z.meta.isa_set);
    insn.exception_class = static_cast<std::uint8_t>(z.meta.exception_class);
    insn.opcode = z.opcode;
    insn.opcode_map = static_cast<std::uint8_t>(z.opcode_map);
    insn.operand_size = static_cast<std::uint8_t>(z.operand_width / 8U);
    insn.address_size = static_cast<std::uint8_t>(z.address_width / 8U);
    insn.stack_size = static_cast<std::uint8_t>(z.stack_width / 8U);
    insn.vector_length = z.avx.vector_length;
    insn.broadcast_lanes =
        z.avx.broadcast.is_static ? std::uint8_t{0} : lanes_of(z.avx.broadcast.mode);
    insn.broadcast = z.avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID;
    if (z.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ||
        z.encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
        z.encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX || !isa.has(insn.isa_set)) {
        return DecodeStatus::Ok;
    }
    const Classification found = classify(insn.mnemonic, insn.isa_set);
    insn.cls = found.cls;
    insn.vector = found.vector;
    copy_prefixes(z, insn);
    copy_encoding(z, insn);
    copy_numbers(z, insn);
    take_operands(decoder, context, z, insn);
    insn.mem.aligned = needs_alignment(insn);
    if (insn.cls != InsnClass::Undefined) {
        refine_class(z, insn);
    }
    return DecodeStatus::Ok;
}

const char* mnemonic_name(const Instruction& insn) noexcept {
    const char* name = ZydisMnemonicGetString(static_cast<ZydisMnemonic>(insn.mnemonic));
    return name != nullptr ? name : "(bad)";
}

}  // namespace strata::engine::soft
