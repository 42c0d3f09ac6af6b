// Rewrite: prefixes, ModRM and immediates.
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint8_t kOpcodeMaps = 4;

std::uint8_t escape_length(const Instruction& insn) {
    return insn.opcode_map == 0 ? 0 : insn.opcode_map == 1 ? 1 : 2;
}

std::uint8_t home(const Rewrite& rewrite, std::uint8_t guest) {
    return Assembler::raw(rewrite.home[guest & 15]);
}

// An 8-bit operand without REX names AH..BH by 4..7: those stay as they are.
std::uint8_t map_gpr(const Instruction& insn, const Rewrite& rewrite, std::uint8_t guest) {
    return insn.uses_high_byte ? guest : home(rewrite, guest);
}

struct Fields {
    std::uint8_t reg = 0, vvvv = 0, opcode_reg = 0, rm = 0;  // rm: the register of mod 3
};

Fields map_fields(const Instruction& insn, const Rewrite& rewrite) {
    Fields fields{insn.reg, insn.vvvv, insn.opcode_reg, insn.rm};
    if (insn.reg_is_gpr) {
        fields.reg = map_gpr(insn, rewrite, insn.reg);
    }
    if (insn.vvvv_is_gpr) {
        fields.vvvv = map_gpr(insn, rewrite, insn.vvvv);
    }
    if (insn.opcode_reg_is_gpr) {
        fields.opcode_reg = map_gpr(insn, rewrite, insn.opcode_reg);
    }
    if (insn.rm_is_gpr && insn.mod == 3) {
        fields.rm = map_gpr(insn, rewrite, insn.rm);
    }
    return fields;
}

// The X and B bits that the r/m operand needs.
void extension_bits(const Instruction& insn, const Rewrite& rewrite, const Fields& fields, bool& x,
                    bool& b) {
    x = b = false;
    if (insn.mem.present) {
        b = rewrite.memory.base >= 8;
        x = rewrite.memory.index >= 8;
    } else if (insn.modrm_offset != kNoOffset) {
        b = (fields.rm & 8) != 0;
        x = (fields.rm & 16) != 0;
    } else if (insn.opcode_reg_is_gpr) {
        b = (fields.opcode_reg & 8) != 0;
    }
}

void emit_modrm(Assembler& a, const Instruction& insn, const Rewrite& rewrite,
                const Fields& fields) {
    const auto reg_bits = static_cast<std::uint8_t>((fields.reg & 7) << 3);
    if (!insn.mem.present) {
        a.byte(static_cast<std::uint8_t>(0xC0 | reg_bits | (fields.rm & 7)));
        return;
    }
    const Mem& mem = rewrite.memory;
    if (mem.gs) {
        a.byte(static_cast<std::uint8_t>(reg_bits | 4));
        a.byte(0x25);
        a.u32(static_cast<std::uint32_t>(mem.disp));
        return;
    }
    const bool sib = mem.index != Mem::kNone;
    // mod 00 or 10 only: EVEX would scale a short displacement. r13 and rbp are never the base with
    // mod 00.
    const std::uint8_t mod = mem.disp == 0 && (mem.base & 7) != 5 ? 0 : 2;
    a.byte(static_cast<std::uint8_t>((mod << 6) | reg_bits | (sib ? 4 : (mem.base & 7))));
    if (sib) {
        const auto scale = static_cast<std::uint8_t>(__builtin_ctz(mem.scale));
        a.byte(static_cast<std::uint8_t>((scale << 6) | ((mem.index & 7) << 3) | (mem.base & 7)));
    }
    if (mod == 2) {
        a.u32(static_cast<std::uint32_t>(mem.disp));
    }
}

void emit_legacy_opcode(Assembler& a, const Instruction& insn, const Rewrite& rewrite,
                        const Fields& fields) {
    const std::uint8_t prefixes =
        static_cast<std::uint8_t>(insn.opcode_offset - escape_length(insn));
    if (insn.mem.present && rewrite.memory.gs) {
        a.byte(0x65);
    }
    for (std::uint8_t i = 0; i < prefixes; ++i) {
        const std::uint8_t value = insn.bytes[i];
        if (value == 0x66 || value == 0xF0 || value == 0xF2 || value == 0xF3) {
            a.byte(value);
        }
    }
    bool x = false;
    bool b = false;
    extension_bits(insn, rewrite, fields, x, b);
    const auto rex = static_cast<std::uint8_t>(
        (insn.rex & 0x48) | ((fields.reg & 8) != 0 && insn.modrm_offset != kNoOffset ? 4 : 0) |
        (x ? 2 : 0) | (b ? 1 : 0));
    // A REX without bits still tells SPL..DIL from AH..BH. Mapped registers above 7 are byte
    // registers with any REX.
    if (insn.rex != 0 || rex != 0) {
        a.byte(0x40 | rex);
    }
    for (std::uint8_t i = prefixes; i < insn.opcode_offset; ++i) {
        a.byte(insn.bytes[i]);
    }
    const std::uint8_t opcode = insn.bytes[insn.opcode_offset];
    if (insn.opcode_reg_is_gpr && insn.modrm_offset == kNoOffset) {
        a.byte(static_cast<std::uint8_t>((opcode & 0xF8) | (fields.opcode_reg & 7)));
    } else {
        a.byte(opcode);
    }
}

void emit_vex_opcode(Assembler& a, const Instruction& insn, const Rewrite& rewrite,
                     const Fields& fields) {
    const std::uint8_t* in = insn.bytes + insn.vex_offset;
    const bool three = insn.vex_length == 3;
    const std::uint8_t map = three ? (in[1] & 0x1F) : 1;
    const std::uint8_t last = three ? in[2] : in[1];
    bool x = false;
    bool b = false;
    extension_bits(insn, rewrite, fields, x, b);
    a.byte(0xC4);
    a.byte(static_cast<std::uint8_t>(((fields.reg & 8) != 0 ? 0 : 0x80) | (x ? 0 : 0x40) |
                                     (b ? 0 : 0x20) | map));
    const std::uint8_t w = three ? (last & 0x80) : 0;
    const std::uint8_t vvvv =
        insn.vvvv_is_gpr ? static_cast<std::uint8_t>((~fields.vvvv & 15) << 3) : (last & 0x78);
    a.byte(static_cast<std::uint8_t>(w | vvvv | (last & 7)));
    a.byte(insn.bytes[insn.opcode_offset]);
}

void emit_evex_opcode(Assembler& a, const Instruction& insn, const Rewrite& rewrite,
                      const Fields& fields) {
    const std::uint8_t* in = insn.bytes + insn.vex_offset;
    bool x = false;
    bool b = false;
    extension_bits(insn, rewrite, fields, x, b);
    a.byte(0x62);
    const auto p0 = static_cast<std::uint8_t>(((fields.reg & 8) != 0 ? 0 : 0x80) | (x ? 0 : 0x40) |
                                              (b ? 0 : 0x20) | ((fields.reg & 16) != 0 ? 0 : 0x10) |
                                              (in[1] & 0x0F));
    a.byte(p0);
    const std::uint8_t vvvv =
        insn.vvvv_is_gpr ? static_cast<std::uint8_t>((~fields.vvvv & 15) << 3) : (in[2] & 0x78);
    a.byte(static_cast<std::uint8_t>((in[2] & 0x87) | vvvv));
    a.byte(in[3]);
    a.byte(insn.bytes[insn.opcode_offset]);
}

// MOV between the accumulator and a full address has no ModRM: the same MOV with one is written
// instead.
void emit_moffs(Assembler& a, const Instruction& insn, const Rewrite& rewrite) {
    const bool word = insn.operand_size == 2;
    if (word) {
        a.byte(0x66);
    }
    Instruction as_modrm = insn;
    as_modrm.reg = 0;
    const bool wide = insn.operand_size == 8;
    const bool store = (insn.opcode & 2) != 0;
    const bool byte_size = (insn.opcode & 1) == 0;
    const auto rex =
        static_cast<std::uint8_t>(0x40 | (wide ? 8 : 0) | (rewrite.memory.index >= 8 ? 2 : 0) |
                                  (rewrite.memory.base >= 8 ? 1 : 0));
    a.byte(rex);
    a.byte(static_cast<std::uint8_t>((store ? 0x88 : 0x8A) | (byte_size ? 0 : 1)));
    emit_modrm(a, as_modrm, rewrite, Fields{});
}

bool is_moffs(const Instruction& insn) {
    return insn.mem.present && insn.modrm_offset == kNoOffset && insn.opcode_map == 0 &&
           (insn.opcode & 0xFC) == 0xA0;
}

}  // namespace

bool can_rewrite(const Instruction& insn, const Rewrite& rewrite) {
    if (insn.opcode_map >= kOpcodeMaps && insn.encoding == Encoding::Legacy) {
        return false;
    }
    if (insn.mem.present && insn.modrm_offset == kNoOffset && !is_moffs(insn)) {
        return false;
    }
    if (!insn.uses_high_byte) {
        return true;
    }
    if (insn.mem.present) {
        return rewrite.memory.base < 8 && rewrite.memory.index < 8;
    }
    // The other operand is one of the first eight and not rsp, which has moved.
    return ((insn.gpr_read | insn.gpr_write) & 0xFF10) == 0;
}

void emit_rewritten(Assembler& a, const Instruction& insn, const Rewrite& rewrite) {
    if (is_moffs(insn)) {
        emit_moffs(a, insn, rewrite);
        return;
    }
    const Fields fields = map_fields(insn, rewrite);
    switch (insn.encoding) {
        case Encoding::Legacy:
            emit_legacy_opcode(a, insn, rewrite, fields);
            break;
        case Encoding::Vex:
            emit_vex_opcode(a, insn, rewrite, fields);
            break;
        case Encoding::Evex:
            emit_evex_opcode(a, insn, rewrite, fields);
            break;
    }
    if (insn.modrm_offset != kNoOffset) {
        emit_modrm(a, insn, rewrite, fields);
    }
    // Immediates come last; for VEX with four operands the fourth register is one of them.
    if (insn.imm_count > 0) {
        for (std::uint8_t i = insn.imm_offset[0]; i < insn.length; ++i) {
            a.byte(insn.bytes[i]);
        }
    } else if (insn.encoding != Encoding::Legacy) {
        const bool has_sib = insn.sib_offset != kNoOffset;
        const std::uint8_t end = insn.disp_offset != kNoOffset
                                     ? static_cast<std::uint8_t>(insn.disp_offset + insn.disp_size)
                                 : has_sib ? static_cast<std::uint8_t>(insn.sib_offset + 1)
                                 : insn.modrm_offset != kNoOffset
                                     ? static_cast<std::uint8_t>(insn.modrm_offset + 1)
                                     : insn.length;
        for (std::uint8_t i = end; i < insn.length; ++i) {
            a.byte(insn.bytes[i]);
        }
    }
}

}  // namespace strata::engine::soft
