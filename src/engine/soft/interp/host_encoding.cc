// encode_for_host(): see host_encoding.h.
#include "engine/soft/interp/host_encoding.h"

#include <Zydis/Mnemonic.h>

#include "arch/x86/arch_state.h"

namespace strata::engine::soft {
namespace {

using arch::x86::Rsp;

class Writer {
  public:
    explicit Writer(HostEncoding& out) : out_(out) {}
    void byte(unsigned value) { out_.bytes[out_.length++] = static_cast<std::uint8_t>(value); }

  private:
    HostEncoding& out_;
};

/// A register among the first eight (no REX needed) that `used` does not name.
std::uint8_t free_register(std::uint32_t used) {
    constexpr std::uint8_t kOrder[] = {7, 6, 3, 2, 1, 0, 5};
    for (const std::uint8_t candidate : kOrder) {
        if (((used >> candidate) & 1U) == 0) {
            return candidate;
        }
    }
    return kNoHostRegister;
}

/// The fields of the rewritten instruction.
struct Fields {
    std::uint8_t reg, rm, opcode_reg, vvvv;
    bool memory;
};

bool names_rsp(const Instruction& insn) {
    return (insn.reg_is_gpr && insn.reg == Rsp && !insn.reg_is_high) ||
           (insn.rm_is_gpr && insn.mod == 3 && insn.rm == Rsp && !insn.rm_is_high) ||
           (insn.opcode_reg_is_gpr && insn.opcode_reg == Rsp && !insn.uses_high_byte) ||
           (insn.vvvv_is_gpr && insn.vvvv == Rsp);
}

Fields rename(const Instruction& insn, const HostEncoding& out) {
    Fields f{insn.reg, insn.rm, insn.opcode_reg, insn.vvvv, insn.mem.present};
    if (out.rsp_alias != kNoHostRegister) {
        if (insn.reg_is_gpr && f.reg == Rsp && !insn.reg_is_high) {
            f.reg = out.rsp_alias;
        }
        if (insn.rm_is_gpr && insn.mod == 3 && f.rm == Rsp && !insn.rm_is_high) {
            f.rm = out.rsp_alias;
        }
        if (insn.opcode_reg_is_gpr && f.opcode_reg == Rsp) {
            f.opcode_reg = out.rsp_alias;
        }
        if (insn.vvvv_is_gpr && f.vvvv == Rsp) {
            f.vvvv = out.rsp_alias;
        }
    }
    return f;
}

void write_modrm(const Instruction& insn, const HostEncoding& out, const Fields& f, Writer& w) {
    const unsigned reg = (f.reg & 7U) << 3U;
    if (!f.memory) {
        w.byte(0xc0U | reg | (f.rm & 7U));
    } else if (out.base == 5) {
        w.byte(0x45U | reg);  // [rbp + 0]
        w.byte(0);
    } else {
        w.byte(reg | out.base);
    }
    (void)insn;
}

void write_tail(const Instruction& insn, Writer& w) {
    if (insn.imm_count != 0) {
        for (unsigned i = insn.imm_offset[0]; i < insn.length; ++i) {
            w.byte(insn.bytes[i]);
        }
    }
}

bool wants_66(const Instruction& insn) {
    if (insn.mandatory_66) {
        return true;
    }
    if (insn.cls == InsnClass::Special && insn.vector == VectorKind::X87) {
        return insn.operand_size == 2;  // the 16-bit formats of FNSAVE, FNSTENV and their loads
    }
    return insn.vector == VectorKind::None && insn.operand_size == 2 &&
           insn.mnemonic != ZYDIS_MNEMONIC_CMPXCHG8B;
}

void write_legacy(const Instruction& insn, const HostEncoding& out, const Fields& f, Writer& w) {
    if (insn.lock) {
        w.byte(0xf0);
    }
    if (wants_66(insn)) {
        w.byte(0x66);
    }
    if (insn.mandatory_f2 || insn.mandatory_f3) {
        w.byte(insn.mandatory_f2 ? 0xf2 : 0xf3);
    }
    const bool has_modrm = insn.modrm_offset != kNoOffset;
    const bool moffs = insn.mem.present && !has_modrm;
    const bool short_inc =
        insn.mode != CodeMode::Bits64 && insn.opcode_map == 0 && (insn.opcode & 0xf0U) == 0x40;
    const unsigned b = f.memory    ? 0
                       : has_modrm ? (f.rm >> 3U) & 1U
                                   : (insn.opcode_reg_is_gpr ? f.opcode_reg >> 3U : 0U);
    const unsigned r = has_modrm ? (f.reg >> 3U) & 1U : 0;
    const unsigned rex = (insn.rex & 8U) | (r << 2U) | b;
    if (rex != 0 || insn.rex != 0) {
        w.byte(0x40U | rex);
    }
    if (insn.opcode_map != 0) {
        w.byte(0x0f);
        if (insn.opcode_map == 2 || insn.opcode_map == 3) {
            w.byte(insn.opcode_map == 2 ? 0x38 : 0x3a);
        }
    }
    if (moffs) {
        constexpr std::uint8_t kForms[] = {0x8a, 0x8b, 0x88, 0x89};
        w.byte(kForms[insn.opcode & 3U]);
        const Fields accumulator{0, 0, 0, 0, true};
        write_modrm(insn, out, accumulator, w);
        return;
    }
    if (short_inc) {
        w.byte(0xff);
        w.byte(0xc0U | ((insn.opcode & 8U) != 0 ? 8U : 0U) | (f.opcode_reg & 7U));
        return;
    }
    const bool alias_82 = insn.opcode_map == 0 && insn.opcode == 0x82;
    w.byte(alias_82                 ? 0x80U
           : insn.opcode_reg_is_gpr ? (insn.opcode & 0xf8U) | (f.opcode_reg & 7U)
                                    : insn.opcode);
    if (has_modrm) {
        write_modrm(insn, out, f, w);
    }
    write_tail(insn, w);
}

/// In 16/32-bit modes VEX.W and EVEX.W are ignored for general registers.
bool keep_w(const Instruction& insn) {
    return insn.mode == CodeMode::Bits64 ||
           !(insn.reg_is_gpr || insn.rm_is_gpr || insn.vvvv_is_gpr);
}

void write_vex(const Instruction& insn, const HostEncoding& out, const Fields& f, Writer& w) {
    const std::uint8_t* p = insn.bytes + insn.vex_offset;
    const unsigned last = insn.vex_length == 3 ? p[2] : p[1] & 0x7fU;
    const unsigned r = (f.reg & 8U) == 0 ? 0x80U : 0U;
    const unsigned b = f.memory || (f.rm & 8U) == 0 ? 0x20U : 0U;
    w.byte(0xc4);
    w.byte(r | 0x40U | b | insn.opcode_map);
    w.byte((keep_w(insn) ? last & 0x80U : 0U) | ((~f.vvvv & 15U) << 3U) | (last & 7U));
    w.byte(insn.opcode);
    if (insn.modrm_offset != kNoOffset) {
        write_modrm(insn, out, f, w);
    }
    write_tail(insn, w);
}

void write_evex(const Instruction& insn, const HostEncoding& out, const Fields& f, Writer& w) {
    const std::uint8_t* p = insn.bytes + insn.vex_offset;
    unsigned p0 = p[1] & 0x0fU;
    p0 |= (f.reg & 8U) == 0 ? 0x80U : 0U;
    p0 |= (f.reg & 16U) == 0 ? 0x10U : 0U;
    p0 |= f.memory || (f.rm & 16U) == 0 ? 0x40U : 0U;
    p0 |= f.memory || (f.rm & 8U) == 0 ? 0x20U : 0U;
    unsigned p1 = p[2];
    unsigned p2 = p[3];
    if (!keep_w(insn)) {
        p1 &= 0x7fU;
    }
    if (insn.mode != CodeMode::Bits64) {
        p1 |= 0x40U;
        p2 |= 0x08U;
    }
    w.byte(0x62);
    w.byte(p0);
    w.byte(p1);
    w.byte(p2);
    w.byte(insn.opcode);
    write_modrm(insn, out, f, w);
    write_tail(insn, w);
}

}  // namespace

bool encode_for_host(const Instruction& insn, HostEncoding& out) noexcept {
    out = HostEncoding{};
    std::uint32_t used = static_cast<std::uint32_t>(insn.gpr_read) | insn.gpr_write | (1U << Rsp);
    if (insn.mem.vsib) {
        return false;
    }
    if (insn.mem.present) {
        out.base = free_register(used);
        if (out.base == kNoHostRegister) {
            return false;
        }
        used |= 1U << out.base;
    }
    if (names_rsp(insn)) {
        out.rsp_alias = free_register(used);
        if (out.rsp_alias == kNoHostRegister) {
            return false;
        }
    }
    Writer w(out);
    const Fields f = rename(insn, out);
    switch (insn.encoding) {
        case Encoding::Legacy:
            write_legacy(insn, out, f, w);
            break;
        case Encoding::Vex:
            write_vex(insn, out, f, w);
            break;
        case Encoding::Evex:
            write_evex(insn, out, f, w);
            break;
    }
    return true;
}

}  // namespace strata::engine::soft
