// Host ALU: one arithmetic instruction on values, by the same instruction of the host, and its
// flags.
//
// The flags are pushed onto the stack inside assembly: only for files compiled without a red zone
// (CMakeLists.txt).
#pragma once

#include "engine/soft/interp/operands.h"

namespace strata::engine::soft {

enum class Alu : std::uint8_t { Add, Or, Adc, Sbb, And, Sub, Xor, Cmp, Test };
enum class Shift : std::uint8_t { Rol, Ror, Shl, Shr, Sar };
enum class Unary : std::uint8_t { Inc, Dec, Neg, Not };

#define STRATA_ALU_CASE(NAME, TEXT)                                                          \
    if constexpr (op == Alu::NAME) {                                                         \
        __asm__(TEXT " %2, %0\n\tpushfq\n\tpopq %1" : "+r"(a), "=r"(flags) : "r"(b) : "cc"); \
    }
#define STRATA_ALU_CARRY(NAME, TEXT)                                 \
    if constexpr (op == Alu::NAME) {                                 \
        __asm__("btq $0, %3\n\t" TEXT " %2, %0\n\tpushfq\n\tpopq %1" \
                : "+r"(a), "=&r"(flags)                              \
                : "r"(b), "r"(cpu.rflags)                            \
                : "cc");                                             \
    }

/// `a` op `b`; arithmetic flags go to `cpu`, carry comes from there.
template <Alu op, typename T>
T alu(CpuState& cpu, T a, T b) {
    std::uint64_t flags = 0;
    STRATA_ALU_CASE(Add, "add")
    STRATA_ALU_CASE(Or, "or")
    STRATA_ALU_CARRY(Adc, "adc")
    STRATA_ALU_CARRY(Sbb, "sbb")
    STRATA_ALU_CASE(And, "and")
    STRATA_ALU_CASE(Sub, "sub")
    STRATA_ALU_CASE(Xor, "xor")
    STRATA_ALU_CASE(Cmp, "cmp")
    STRATA_ALU_CASE(Test, "test")
    set_arithmetic(cpu, flags);
    return a;
}
#undef STRATA_ALU_CASE
#undef STRATA_ALU_CARRY

constexpr bool writes_back(Alu op) {
    return op != Alu::Cmp && op != Alu::Test;
}

/// `a` shifted or rotated by `count`, which is not 0 and is masked already.
template <Shift op, typename T>
T shift(CpuState& cpu, T a, std::uint8_t count) {
    std::uint64_t flags = 0;
    std::uint64_t mask = x86::rflags::kArithmetic;
#define STRATA_SHIFT_CASE(NAME, TEXT)                                                              \
    if constexpr (op == Shift::NAME) {                                                             \
        __asm__(TEXT " %%cl, %0\n\tpushfq\n\tpopq %1" : "+r"(a), "=r"(flags) : "c"(count) : "cc"); \
    }
    STRATA_SHIFT_CASE(Rol, "rol")
    STRATA_SHIFT_CASE(Ror, "ror")
    STRATA_SHIFT_CASE(Shl, "shl")
    STRATA_SHIFT_CASE(Shr, "shr")
    STRATA_SHIFT_CASE(Sar, "sar")
#undef STRATA_SHIFT_CASE
    if constexpr (op == Shift::Rol || op == Shift::Ror) {
        mask = x86::rflags::kCf | x86::rflags::kOf;
    }
    set_arithmetic(cpu, flags, mask);
    return a;
}

/// One operand; NOT leaves the flags.
template <Unary op, typename T>
T unary(CpuState& cpu, T a) {
    std::uint64_t flags = 0;
    if constexpr (op == Unary::Inc) {
        __asm__("inc %0\n\tpushfq\n\tpopq %1" : "+r"(a), "=r"(flags) : : "cc");
        set_arithmetic(cpu, flags, x86::rflags::kArithmetic & ~x86::rflags::kCf);
    } else if constexpr (op == Unary::Dec) {
        __asm__("dec %0\n\tpushfq\n\tpopq %1" : "+r"(a), "=r"(flags) : : "cc");
        set_arithmetic(cpu, flags, x86::rflags::kArithmetic & ~x86::rflags::kCf);
    } else if constexpr (op == Unary::Neg) {
        __asm__("neg %0\n\tpushfq\n\tpopq %1" : "+r"(a), "=r"(flags) : : "cc");
        set_arithmetic(cpu, flags);
    } else {
        a = static_cast<T>(~a);
    }
    return a;
}

}  // namespace strata::engine::soft
