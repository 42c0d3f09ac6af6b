// Special: data processing that a stub cannot do: BCD, bit strings, XLAT, BOUND, ARPL, cache lines.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

/// SF, ZF, PF of a byte.
std::uint64_t result_flags(std::uint8_t value) {
    std::uint64_t flags = 0;
    __asm__("testb %b1, %b1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "q"(value) : "cc");
    return flags & (fl::kSf | fl::kZf | fl::kPf);
}

std::uint8_t al(const CpuState& cpu) {
    return static_cast<std::uint8_t>(cpu.gpr[x86::Rax]);
}
std::uint8_t ah(const CpuState& cpu) {
    return static_cast<std::uint8_t>(cpu.gpr[x86::Rax] >> 8U);
}
void set_ax(CpuState& cpu, unsigned high, unsigned low) {
    set_gpr(cpu, x86::Rax, 2, ((high & 0xffU) << 8U) | (low & 0xffU));
}

/// DAA, DAS: SDM 2.
StepResult op_decimal(CpuState& cpu, Op& op) noexcept {
    const bool subtract = op.insn.mnemonic == ZYDIS_MNEMONIC_DAS;
    const std::uint8_t old = al(cpu);
    const bool old_cf = (cpu.rflags & fl::kCf) != 0;
    unsigned value = old;
    std::uint64_t flags = 0;
    if ((old & 15U) > 9 || (cpu.rflags & fl::kAf) != 0) {
        const unsigned adjusted = subtract ? value - 6 : value + 6;
        if (old_cf || (adjusted & ~0xffU) != 0) {
            flags |= fl::kCf;
        }
        value = adjusted & 0xffU;
        flags |= fl::kAf;
    }
    if (old > 0x99 || old_cf) {
        value = (subtract ? value - 0x60 : value + 0x60) & 0xffU;
        flags |= fl::kCf;
    } else if (!subtract) {
        flags &= ~fl::kCf;
    }
    const auto result = static_cast<std::uint8_t>(value);
    set_gpr(cpu, x86::Rax, 1, result);
    set_arithmetic(cpu, flags | result_flags(result), fl::kArithmetic & ~fl::kOf);
    return done(cpu, op.insn);
}

/// AAA, AAS.
StepResult op_ascii(CpuState& cpu, Op& op) noexcept {
    const bool subtract = op.insn.mnemonic == ZYDIS_MNEMONIC_AAS;
    std::uint64_t flags = 0;
    auto ax = static_cast<std::uint16_t>(cpu.gpr[x86::Rax]);
    if ((ax & 15U) > 9 || (cpu.rflags & fl::kAf) != 0) {
        ax = static_cast<std::uint16_t>(subtract ? ax - 0x106 : ax + 0x106);
        flags = fl::kAf | fl::kCf;
    }
    set_ax(cpu, ax >> 8U, ax & 15U);
    set_arithmetic(cpu, flags, fl::kAf | fl::kCf);
    return done(cpu, op.insn);
}

StepResult op_aam(CpuState& cpu, Op& op) noexcept {
    const auto base = static_cast<std::uint8_t>(op.insn.imm[0]);
    if (base == 0) {
        return raise(cpu, vec::kDe);
    }
    const std::uint8_t value = al(cpu);
    const auto low = static_cast<std::uint8_t>(value % base);
    set_ax(cpu, value / base, low);
    set_arithmetic(cpu, result_flags(low));
    return done(cpu, op.insn);
}

StepResult op_aad(CpuState& cpu, Op& op) noexcept {
    const auto base = static_cast<std::uint8_t>(op.insn.imm[0]);
    const auto low = static_cast<std::uint8_t>(al(cpu) + ah(cpu) * base);
    set_ax(cpu, 0, low);
    set_arithmetic(cpu, result_flags(low));
    return done(cpu, op.insn);
}

StepResult op_salc(CpuState& cpu, Op& op) noexcept {
    set_gpr(cpu, x86::Rax, 1, (cpu.rflags & fl::kCf) != 0 ? 0xff : 0);
    return done(cpu, op.insn);
}

StepResult op_xlat(CpuState& cpu, Op& op) noexcept {
    const std::uint64_t at = (cpu.gpr[x86::Rbx] + al(cpu)) & size_mask(op.insn.address_size);
    std::uint8_t value = 0;
    if (!load(cpu, op.insn.implicit_segment, at, value)) {
        return StepResult::Exception;
    }
    set_gpr(cpu, x86::Rax, 1, value);
    return done(cpu, op.insn);
}

std::int64_t sign_extend(std::uint64_t value, unsigned size) {
    const unsigned shift = 64 - size * 8;
    return static_cast<std::int64_t>(value << shift) >> shift;
}

StepResult op_bound(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = insn.operand_size;
    const std::uint64_t at = effective_address(cpu, insn);
    std::uint64_t lower = 0;
    std::uint64_t upper = 0;
    if (!load_sized(cpu, insn.mem.segment, at, size, lower) ||
        !load_sized(cpu, insn.mem.segment, (at + size) & size_mask(insn.address_size), size,
                    upper)) {
        return StepResult::Exception;
    }
    const std::int64_t index = sign_extend(get_gpr(cpu, insn.reg, size), size);
    if (index < sign_extend(lower, size) || index > sign_extend(upper, size)) {
        return raise(cpu, vec::kBr);
    }
    return done(cpu, insn);
}

StepResult op_arpl(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!protected_mode(cpu)) {
        return raise_ud(cpu);
    }
    std::uint64_t selector = 0;
    if (!read_operand(cpu, insn, 2, selector)) {
        return StepResult::Exception;
    }
    const std::uint64_t rpl = cpu.gpr[insn.reg] & 3U;
    const bool raised = (selector & 3U) < rpl;
    if (raised && !write_operand(cpu, insn, 2, (selector & ~3ULL) | rpl)) {
        return StepResult::Exception;
    }
    set_arithmetic(cpu, raised ? fl::kZf : 0, fl::kZf);
    return done(cpu, insn);
}

enum class Bit : std::uint8_t { Test, Set, Reset, Complement };

Bit bit_operation(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_BTS:
            return Bit::Set;
        case ZYDIS_MNEMONIC_BTR:
            return Bit::Reset;
        case ZYDIS_MNEMONIC_BTC:
            return Bit::Complement;
        default:
            return Bit::Test;
    }
}

std::uint64_t applied(Bit operation, std::uint64_t value, std::uint64_t mask) {
    switch (operation) {
        case Bit::Set:
            return value | mask;
        case Bit::Reset:
            return value & ~mask;
        case Bit::Complement:
            return value ^ mask;
        case Bit::Test:
            break;
    }
    return value;
}

template <typename T>
std::uint64_t atomic_bit(std::byte* host, Bit operation, T mask) {
    // SAFETY: `host` is guest RAM within one page; x86 locks any alignment.
    T* at = reinterpret_cast<T*>(host);
    switch (operation) {
        case Bit::Set:
            return __atomic_fetch_or(at, mask, __ATOMIC_SEQ_CST);
        case Bit::Reset:
            return __atomic_fetch_and(at, static_cast<T>(~mask), __ATOMIC_SEQ_CST);
        default:
            return __atomic_fetch_xor(at, mask, __ATOMIC_SEQ_CST);
    }
}

/// BT m, r: the register is a signed bit offset from the operand's address.
StepResult op_bit_string(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = insn.operand_size;
    const Bit operation = bit_operation(insn);
    const std::uint64_t offset = get_gpr(cpu, insn.reg, size);
    const unsigned shift = size == 8 ? 6 : size == 4 ? 5 : 4;
    const std::int64_t units = sign_extend(offset, size) >> shift;
    const std::uint64_t at =
        (effective_address(cpu, insn) + static_cast<std::uint64_t>(units) * size) &
        size_mask(insn.address_size);
    const std::uint64_t mask = 1ULL << (offset & (size * 8 - 1));
    std::uint64_t value = 0;
    if (operation == Bit::Test) {
        if (!load_sized(cpu, insn.mem.segment, at, size, value)) {
            return StepResult::Exception;
        }
        set_arithmetic(cpu, (value & mask) != 0 ? fl::kCf : 0, fl::kCf);
        return done(cpu, insn);
    }
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, insn.mem.segment, at, size, true, linear)) {
        return StepResult::Exception;
    }
    const bool crosses = (linear & 0xfffU) + size > 0x1000;
    std::byte* host = crosses ? nullptr : host_pointer(cpu, linear, size, MemAccess::Write);
    if (host != nullptr) {
        value = size == 8 ? atomic_bit<std::uint64_t>(host, operation, mask)
                : size == 4
                    ? atomic_bit<std::uint32_t>(host, operation, static_cast<std::uint32_t>(mask))
                    : atomic_bit<std::uint16_t>(host, operation, static_cast<std::uint16_t>(mask));
    } else {
        if (cpu.exception.pending || !probe_write(cpu, linear, size)) {
            (void)memory_fault(cpu, insn.mem.segment);
            return StepResult::Exception;
        }
        bool good = true;
        const auto modify = [&] {
            good = read_linear(cpu, linear, &value, size);
            const std::uint64_t changed = applied(operation, value, mask);
            good = good && write_linear(cpu, linear, &changed, size);
        };
        if (insn.lock && crosses) {
            save_vector_state(cpu);
            cpu.vm->run_exclusive(&cpu, modify);
        } else {
            modify();
        }
        if (!good) {
            return StepResult::Exception;
        }
    }
    set_arithmetic(cpu, (value & mask) != 0 ? fl::kCf : 0, fl::kCf);
    return done(cpu, insn);
}

/// CLFLUSH, CLFLUSHOPT, CLWB: checked as a byte load, otherwise nothing.
StepResult op_cache_line(CpuState& cpu, Op& op) noexcept {
    std::uint8_t byte = 0;
    return load(cpu, op.insn.mem.segment, effective_address(cpu, op.insn), byte)
               ? done(cpu, op.insn)
               : StepResult::Exception;
}

StepResult op_clzero(CpuState& cpu, Op& op) noexcept {
    const std::uint8_t zeros[64] = {};
    const std::uint64_t at = cpu.gpr[x86::Rax] & size_mask(op.insn.address_size) & ~63ULL;
    return store_bytes(cpu, op.insn.implicit_segment, at, zeros, 64) ? done(cpu, op.insn)
                                                                     : StepResult::Exception;
}

}  // namespace

Handler select_special(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_DAA:
        case ZYDIS_MNEMONIC_DAS:
            return op_decimal;
        case ZYDIS_MNEMONIC_AAA:
        case ZYDIS_MNEMONIC_AAS:
            return op_ascii;
        case ZYDIS_MNEMONIC_AAM:
            return op_aam;
        case ZYDIS_MNEMONIC_AAD:
            return op_aad;
        case ZYDIS_MNEMONIC_SALC:
            return op_salc;
        case ZYDIS_MNEMONIC_XLAT:
            return op_xlat;
        case ZYDIS_MNEMONIC_BOUND:
            return op_bound;
        case ZYDIS_MNEMONIC_ARPL:
            return op_arpl;
        case ZYDIS_MNEMONIC_BT:
        case ZYDIS_MNEMONIC_BTS:
        case ZYDIS_MNEMONIC_BTR:
        case ZYDIS_MNEMONIC_BTC:
            return op_bit_string;
        case ZYDIS_MNEMONIC_CLFLUSH:
        case ZYDIS_MNEMONIC_CLFLUSHOPT:
        case ZYDIS_MNEMONIC_CLWB:
            return op_cache_line;
        case ZYDIS_MNEMONIC_CLZERO:
            return op_clzero;
        default:
            break;
    }
    const Handler image = select_state_image(insn);
    return image != nullptr ? image : select_vector_memory(insn);
}

}  // namespace strata::engine::soft
