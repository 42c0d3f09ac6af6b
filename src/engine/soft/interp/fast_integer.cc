// Fast integer: the common forms of MOV, ALU, shifts, LEA, CMOV … without a stub.
//
// Flags come from the host's own ALU (host_alu.h). A handler here
// serves registers, and memory that the software TLB knows; everything else (misses, page
// crossings, devices, LOCK) goes to op_on_host, which is the reference.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/host_alu.h"
#include "engine/soft/interp/operands.h"

namespace strata::engine::soft {
namespace {

template <typename T>
T* gpr_pointer(CpuState& cpu, unsigned number, bool high) {
    if constexpr (sizeof(T) == 1) {
        return reinterpret_cast<T*>(byte_register(cpu, number, high));
    } else {
        return reinterpret_cast<T*>(&cpu.gpr[number]);
    }
}

template <typename T>
void put_gpr(CpuState& cpu, unsigned number, bool high, T value) {
    if constexpr (sizeof(T) == 4) {
        cpu.gpr[number] = value;
    } else {
        *gpr_pointer<T>(cpu, number, high) = value;
    }
}

/// The memory operand if the TLB has it and no check stands in the way; else null (not an error).
template <typename T>
volatile T* quick_memory(CpuState& cpu, const Instruction& insn, bool write) {
    const std::uint64_t offset = effective_address(cpu, insn);
    std::uint64_t linear = offset;
    if (code64(cpu)) [[likely]] {
        if (insn.mem.segment >= x86::Fs) {
            linear += cpu.segments[insn.mem.segment].base;
        }
        if ((cpu.mode & (ModeBits::kAlignCheck | ModeBits::kTrap)) != 0) {
            return nullptr;
        }
    } else if (!segment_linear(cpu, insn.mem.segment, offset, sizeof(T), write, linear)) {
        cpu.exception.pending = false;  // op_on_host finds it again
        return nullptr;
    }
    return reinterpret_cast<volatile T*>(tlb_hit(cpu, linear, sizeof(T), write));
}

/// op r/m, r and op r/m, imm.
template <Alu op, typename T, bool immediate>
StepResult alu_rm(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    const T b =
        immediate ? static_cast<T>(insn.imm[0]) : *gpr_pointer<T>(cpu, insn.reg, insn.reg_is_high);
    if (!insn.mem.present) {
        const T result = alu<op, T>(cpu, *gpr_pointer<T>(cpu, insn.rm, insn.rm_is_high), b);
        if constexpr (writes_back(op)) {
            put_gpr<T>(cpu, insn.rm, insn.rm_is_high, result);
        }
        return done(cpu, insn);
    }
    volatile T* at = insn.lock ? nullptr : quick_memory<T>(cpu, insn, writes_back(op));
    if (at == nullptr) {
        return op_on_host(cpu, o);
    }
    const T result = alu<op, T>(cpu, *at, b);
    if constexpr (writes_back(op)) {
        *at = result;
    }
    return done(cpu, insn);
}

/// op r, r/m.
template <Alu op, typename T>
StepResult alu_reg(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    T b;
    if (insn.mem.present) {
        volatile T* at = quick_memory<T>(cpu, insn, false);
        if (at == nullptr) {
            return op_on_host(cpu, o);
        }
        b = *at;
    } else {
        b = *gpr_pointer<T>(cpu, insn.rm, insn.rm_is_high);
    }
    const T result = alu<op, T>(cpu, *gpr_pointer<T>(cpu, insn.reg, insn.reg_is_high), b);
    if constexpr (writes_back(op)) {
        put_gpr<T>(cpu, insn.reg, insn.reg_is_high, result);
    }
    return done(cpu, insn);
}

/// op al/ax/eax/rax, imm.
template <Alu op, typename T>
StepResult alu_accumulator(CpuState& cpu, Op& o) noexcept {
    const T result = alu<op, T>(cpu, *gpr_pointer<T>(cpu, 0, false), static_cast<T>(o.insn.imm[0]));
    if constexpr (writes_back(op)) {
        put_gpr<T>(cpu, 0, false, result);
    }
    return done(cpu, o.insn);
}

template <Shift op, typename T>
StepResult shift_rm(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    const bool by_cl = (insn.opcode & 0xfeU) == 0xd2;
    const bool by_one = (insn.opcode & 0xfeU) == 0xd0;
    const auto count =
        static_cast<std::uint8_t>((by_cl    ? cpu.gpr[x86::Rcx]
                                   : by_one ? 1U
                                            : static_cast<std::uint64_t>(insn.imm[0])) &
                                  (sizeof(T) == 8 ? 63U : 31U));
    if (insn.mem.present || count == 0) {
        return op_on_host(cpu, o);
    }
    put_gpr<T>(cpu, insn.rm, insn.rm_is_high,
               shift<op, T>(cpu, *gpr_pointer<T>(cpu, insn.rm, insn.rm_is_high), count));
    return done(cpu, insn);
}

template <Unary op, typename T>
StepResult unary_rm(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    if (!insn.mem.present) {
        const bool short_form = insn.modrm_offset == kNoOffset;
        const unsigned reg = short_form ? insn.opcode_reg : insn.rm;
        put_gpr<T>(cpu, reg, insn.rm_is_high,
                   unary<op, T>(cpu, *gpr_pointer<T>(cpu, reg, insn.rm_is_high)));
        return done(cpu, insn);
    }
    volatile T* at = insn.lock ? nullptr : quick_memory<T>(cpu, insn, true);
    if (at == nullptr) {
        return op_on_host(cpu, o);
    }
    *at = unary<op, T>(cpu, *at);
    return done(cpu, insn);
}

template <typename T>
StepResult mov_store(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    const T value = *gpr_pointer<T>(cpu, insn.reg, insn.reg_is_high);
    if (!insn.mem.present) {
        put_gpr<T>(cpu, insn.rm, insn.rm_is_high, value);
        return done(cpu, insn);
    }
    volatile T* at = quick_memory<T>(cpu, insn, true);
    if (at == nullptr) {
        return op_on_host(cpu, o);
    }
    *at = value;
    return done(cpu, insn);
}

template <typename T>
StepResult mov_load(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    if (!insn.mem.present) {
        put_gpr<T>(cpu, insn.reg, insn.reg_is_high, *gpr_pointer<T>(cpu, insn.rm, insn.rm_is_high));
        return done(cpu, insn);
    }
    volatile T* at = quick_memory<T>(cpu, insn, false);
    if (at == nullptr) {
        return op_on_host(cpu, o);
    }
    put_gpr<T>(cpu, insn.reg, insn.reg_is_high, *at);
    return done(cpu, insn);
}

template <typename T>
StepResult mov_immediate(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    const auto value = static_cast<T>(insn.imm[0]);
    if (insn.modrm_offset == kNoOffset) {
        put_gpr<T>(cpu, insn.opcode_reg, insn.uses_high_byte, value);
        return done(cpu, insn);
    }
    if (!insn.mem.present) {
        put_gpr<T>(cpu, insn.rm, insn.rm_is_high, value);
        return done(cpu, insn);
    }
    volatile T* at = quick_memory<T>(cpu, insn, true);
    if (at == nullptr) {
        return op_on_host(cpu, o);
    }
    *at = value;
    return done(cpu, insn);
}

/// MOVZX, MOVSX, MOVSXD: From is the source's type, its signedness the extension.
template <typename From>
StepResult mov_extend(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    From value;
    if (insn.mem.present) {
        volatile From* at = quick_memory<From>(cpu, insn, false);
        if (at == nullptr) {
            return op_on_host(cpu, o);
        }
        value = *at;
    } else {
        value = *gpr_pointer<From>(cpu, insn.rm, insn.rm_is_high);
    }
    set_gpr(cpu, insn.reg, insn.operand_size,
            static_cast<std::uint64_t>(static_cast<std::int64_t>(value)));
    return done(cpu, insn);
}

StepResult lea(CpuState& cpu, Op& o) noexcept {
    set_gpr(cpu, o.insn.reg, o.insn.operand_size, effective_address(cpu, o.insn));
    return done(cpu, o.insn);
}

StepResult pause(CpuState& cpu, Op& o) noexcept {
    __asm__ volatile("pause");
    return done(cpu, o.insn);
}

StepResult fence(CpuState& cpu, Op& o) noexcept {
    __asm__ volatile("mfence" : : : "memory");
    return done(cpu, o.insn);
}

using A = Alu;
using U8 = std::uint8_t;
using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

template <template <typename> class Form>
Handler by_size(unsigned size) {
    switch (size) {
        case 1:
            return Form<U8>::handler();
        case 2:
            return Form<U16>::handler();
        case 4:
            return Form<U32>::handler();
        case 8:
            return Form<U64>::handler();
        default:
            return nullptr;
    }
}

template <Alu op>
struct AluForms {
    template <typename T>
    struct RmReg {
        static Handler handler() { return alu_rm<op, T, false>; }
    };
    template <typename T>
    struct RmImm {
        static Handler handler() { return alu_rm<op, T, true>; }
    };
    template <typename T>
    struct Reg {
        static Handler handler() { return alu_reg<op, T>; }
    };
    template <typename T>
    struct Accumulator {
        static Handler handler() { return alu_accumulator<op, T>; }
    };
};

template <Alu op>
Handler select_alu(const Instruction& insn) {
    const unsigned size = insn.operand_size;
    if (insn.opcode >= 0x80 && insn.opcode <= 0x83) {
        return by_size<AluForms<op>::template RmImm>(size);
    }
    switch (insn.opcode & 7U) {
        case 0:
        case 1:
            return by_size<AluForms<op>::template RmReg>(size);
        case 2:
        case 3:
            return by_size<AluForms<op>::template Reg>(size);
        default:
            return by_size<AluForms<op>::template Accumulator>(size);
    }
}

Handler select_test(const Instruction& insn) {
    const unsigned size = insn.operand_size;
    if (insn.opcode == 0x84 || insn.opcode == 0x85) {
        return by_size<AluForms<A::Test>::RmReg>(size);
    }
    if (insn.opcode == 0xa8 || insn.opcode == 0xa9) {
        return by_size<AluForms<A::Test>::Accumulator>(size);
    }
    return by_size<AluForms<A::Test>::RmImm>(size);
}

template <Shift op>
struct ShiftForms {
    template <typename T>
    struct Rm {
        static Handler handler() { return shift_rm<op, T>; }
    };
};

template <Unary op>
struct UnaryForms {
    template <typename T>
    struct Rm {
        static Handler handler() { return unary_rm<op, T>; }
    };
};

template <typename T>
struct MovStore {
    static Handler handler() { return mov_store<T>; }
};
template <typename T>
struct MovLoad {
    static Handler handler() { return mov_load<T>; }
};
template <typename T>
struct MovImmediate {
    static Handler handler() { return mov_immediate<T>; }
};

Handler select_mov(const Instruction& insn) {
    switch (insn.opcode) {
        case 0x88:
        case 0x89:
            return by_size<MovStore>(insn.operand_size);
        case 0x8a:
        case 0x8b:
            return by_size<MovLoad>(insn.operand_size);
        case 0xc6:
        case 0xc7:
            return by_size<MovImmediate>(insn.operand_size);
        default:
            return insn.opcode >= 0xb0 && insn.opcode <= 0xbf
                       ? by_size<MovImmediate>(insn.operand_size)
                       : nullptr;
    }
}

Handler select_extend(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_MOVZX:
            return insn.opcode == 0xb6 ? mov_extend<U8> : mov_extend<U16>;
        case ZYDIS_MNEMONIC_MOVSX:
            return insn.opcode == 0xbe ? mov_extend<std::int8_t> : mov_extend<std::int16_t>;
        default:
            return insn.operand_size == 8 ? mov_extend<std::int32_t> : nullptr;
    }
}

// SETcc, CMOVcc: the condition is the low opcode nibble.
StepResult setcc(CpuState& cpu, Op& o) noexcept;
StepResult cmovcc(CpuState& cpu, Op& o) noexcept;

StepResult setcc(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    if (insn.mem.present) {
        return op_on_host(cpu, o);
    }
    *byte_register(cpu, insn.rm, insn.rm_is_high) =
        condition_holds(cpu.rflags, insn.opcode & 15U) ? 1 : 0;
    return done(cpu, insn);
}

StepResult cmovcc(CpuState& cpu, Op& o) noexcept {
    const Instruction& insn = o.insn;
    if (insn.mem.present) {
        return op_on_host(cpu, o);
    }
    const unsigned source = condition_holds(cpu.rflags, insn.opcode & 15U) ? insn.rm : insn.reg;
    set_gpr(cpu, insn.reg, insn.operand_size, cpu.gpr[source]);
    return done(cpu, insn);
}

}  // namespace

bool condition_holds(std::uint64_t flags, unsigned code) noexcept {
    const bool cf = (flags & x86::rflags::kCf) != 0;
    const bool zf = (flags & x86::rflags::kZf) != 0;
    const bool sf = (flags & x86::rflags::kSf) != 0;
    const bool of = (flags & x86::rflags::kOf) != 0;
    bool result = false;
    switch (code >> 1U) {
        case 0:
            result = of;
            break;
        case 1:
            result = cf;
            break;
        case 2:
            result = zf;
            break;
        case 3:
            result = cf || zf;
            break;
        case 4:
            result = sf;
            break;
        case 5:
            result = (flags & x86::rflags::kPf) != 0;
            break;
        case 6:
            result = sf != of;
            break;
        default:
            result = zf || sf != of;
            break;
    }
    return result != ((code & 1U) != 0);
}

// NOLINTNEXTLINE(readability-function-size): a table
Handler select_fast(const Instruction& insn) noexcept {
    const unsigned size = insn.operand_size;
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_ADD:
            return select_alu<A::Add>(insn);
        case ZYDIS_MNEMONIC_OR:
            return select_alu<A::Or>(insn);
        case ZYDIS_MNEMONIC_ADC:
            return select_alu<A::Adc>(insn);
        case ZYDIS_MNEMONIC_SBB:
            return select_alu<A::Sbb>(insn);
        case ZYDIS_MNEMONIC_AND:
            return select_alu<A::And>(insn);
        case ZYDIS_MNEMONIC_SUB:
            return select_alu<A::Sub>(insn);
        case ZYDIS_MNEMONIC_XOR:
            return select_alu<A::Xor>(insn);
        case ZYDIS_MNEMONIC_CMP:
            return select_alu<A::Cmp>(insn);
        case ZYDIS_MNEMONIC_TEST:
            return select_test(insn);
        case ZYDIS_MNEMONIC_ROL:
            return by_size<ShiftForms<Shift::Rol>::Rm>(size);
        case ZYDIS_MNEMONIC_ROR:
            return by_size<ShiftForms<Shift::Ror>::Rm>(size);
        case ZYDIS_MNEMONIC_SHL:
            return by_size<ShiftForms<Shift::Shl>::Rm>(size);
        case ZYDIS_MNEMONIC_SHR:
            return by_size<ShiftForms<Shift::Shr>::Rm>(size);
        case ZYDIS_MNEMONIC_SAR:
            return by_size<ShiftForms<Shift::Sar>::Rm>(size);
        case ZYDIS_MNEMONIC_INC:
            return by_size<UnaryForms<Unary::Inc>::Rm>(size);
        case ZYDIS_MNEMONIC_DEC:
            return by_size<UnaryForms<Unary::Dec>::Rm>(size);
        case ZYDIS_MNEMONIC_NEG:
            return by_size<UnaryForms<Unary::Neg>::Rm>(size);
        case ZYDIS_MNEMONIC_NOT:
            return by_size<UnaryForms<Unary::Not>::Rm>(size);
        case ZYDIS_MNEMONIC_MOV:
            return select_mov(insn);
        case ZYDIS_MNEMONIC_MOVZX:
        case ZYDIS_MNEMONIC_MOVSX:
        case ZYDIS_MNEMONIC_MOVSXD:
            return select_extend(insn);
        case ZYDIS_MNEMONIC_LEA:
            return lea;
        case ZYDIS_MNEMONIC_PAUSE:
            return pause;
        case ZYDIS_MNEMONIC_LFENCE:
        case ZYDIS_MNEMONIC_SFENCE:
        case ZYDIS_MNEMONIC_MFENCE:
            return fence;
        default:
            break;
    }
    if (insn.opcode_map == 1 && insn.encoding == Encoding::Legacy && insn.cls == InsnClass::Copy) {
        if ((insn.opcode & 0xf0U) == 0x90) {
            return setcc;
        }
        if ((insn.opcode & 0xf0U) == 0x40) {
            return cmovcc;
        }
    }
    return nullptr;
}

}  // namespace strata::engine::soft
