// Classify: the tables. See classify.h; semantics of each class in instruction.h.
#include "engine/soft/decode/classify.h"

#include <algorithm>
#include <array>

#include <Zydis/Zydis.h>

namespace strata::engine::soft {
namespace {

using C = InsnClass;
using V = VectorKind;

enum class Register : std::uint8_t { Eax, Ebx, Ecx, Edx };

/// A CPUID bit. leaf 0: always there.
struct Feature {
    std::uint32_t leaf = 0;
    std::uint32_t subleaf = 0;
    Register reg = Register::Eax;
    std::uint8_t bit = 0;
};

constexpr Feature kAlways{};
constexpr Feature f1c(std::uint8_t bit) {
    return {1, 0, Register::Ecx, bit};
}
constexpr Feature f1d(std::uint8_t bit) {
    return {1, 0, Register::Edx, bit};
}
constexpr Feature f7b(std::uint8_t bit) {
    return {7, 0, Register::Ebx, bit};
}
constexpr Feature f7c(std::uint8_t bit) {
    return {7, 0, Register::Ecx, bit};
}
constexpr Feature f7d(std::uint8_t bit) {
    return {7, 0, Register::Edx, bit};
}
constexpr Feature f71a(std::uint8_t bit) {
    return {7, 1, Register::Eax, bit};
}
constexpr Feature fdx(std::uint8_t bit) {
    return {0xd, 1, Register::Eax, bit};
}
constexpr Feature e1c(std::uint8_t bit) {
    return {0x80000001, 0, Register::Ecx, bit};
}
constexpr Feature e1d(std::uint8_t bit) {
    return {0x80000001, 0, Register::Edx, bit};
}
constexpr Feature e8b(std::uint8_t bit) {
    return {0x80000008, 0, Register::Ebx, bit};
}
constexpr Feature kVl = f7b(31), kAvx512f = f7b(16), kAvx512dq = f7b(17), kAvx512bw = f7b(30),
                  kAvx512cd = f7b(28);

/// One ISA extension: the features it needs and the class of its members (Undefined: every member
/// has a row of its own).
struct IsaRow {
    ZydisISASet set = ZYDIS_ISA_SET_INVALID;
    Feature first, second;
    C cls = C::Undefined;
    V vector = V::None;
};

#define STRATA_ISA_512(NAME, FEATURE)                                                        \
    IsaRow{ZYDIS_ISA_SET_##NAME##_128, FEATURE, kVl, C::CopyVector, V::Avx512},              \
        IsaRow{ZYDIS_ISA_SET_##NAME##_256, FEATURE, kVl, C::CopyVector, V::Avx512}, IsaRow { \
        ZYDIS_ISA_SET_##NAME##_512, FEATURE, kAlways, C::CopyVector, V::Avx512               \
    }

constexpr IsaRow kIsaRows[] = {
    {ZYDIS_ISA_SET_I86, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_I186, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_I286REAL, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_I286PROTECTED, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_I386, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_I486, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_I486REAL, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_PENTIUMREAL, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_PPRO, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_LONGMODE, e1d(29), kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_AMD, e1d(11), kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_CMOV, f1d(15), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_LAHF, kAlways, kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_FAT_NOP, kAlways, kAlways, C::Nop, V::None},
    {ZYDIS_ISA_SET_PREFETCH_NOP, kAlways, kAlways, C::Nop, V::None},
    {ZYDIS_ISA_SET_SSE_PREFETCH, kAlways, kAlways, C::Nop, V::None},
    {ZYDIS_ISA_SET_PREFETCHWT1, kAlways, kAlways, C::Nop, V::None},
    {ZYDIS_ISA_SET_PAUSE, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_CMPXCHG16B, f1c(13), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_MOVBE, f1c(22), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_POPCNT, f1c(23), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_LZCNT, e1c(5), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_BMI1, f7b(3), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_BMI2, f7b(8), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_ADOX_ADCX, f7b(19), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_RDRAND, f1c(30), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_RDSEED, f7b(18), kAlways, C::Copy, V::None},
    {ZYDIS_ISA_SET_CLFSH, f1d(19), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_CLFLUSHOPT, f7b(23), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_CLWB, f7b(24), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_CLZERO, e8b(0), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_CLDEMOTE, f7c(25), kAlways, C::Nop, V::None},
    {ZYDIS_ISA_SET_SERIALIZE, f7d(14), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_MOVDIR, f7c(27), kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_INVPCID, f7b(10), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_MONITOR, f1c(3), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_RDPID, f7c(22), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_RDPMC, kAlways, kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_RDTSCP, e1d(27), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_RDWRFSGS, f7b(0), kAlways, C::Segment, V::None},
    {ZYDIS_ISA_SET_SMAP, f7b(20), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_PKU, f7c(3), kAlways, C::System, V::None},
    {ZYDIS_ISA_SET_VTX, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_SVM, kAlways, kAlways, C::Undefined, V::None},
    {ZYDIS_ISA_SET_FXSAVE, f1d(24), kAlways, C::Special, V::X87},
    {ZYDIS_ISA_SET_FXSAVE64, f1d(24), kAlways, C::Special, V::X87},
    {ZYDIS_ISA_SET_XSAVE, f1c(26), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_XSAVEOPT, fdx(0), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_XSAVEC, fdx(1), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_XSAVES, fdx(3), kAlways, C::Special, V::None},
    {ZYDIS_ISA_SET_X87, f1d(0), kAlways, C::CopyVector, V::X87},
    {ZYDIS_ISA_SET_FCMOV, f1d(0), f1d(15), C::CopyVector, V::X87},
    {ZYDIS_ISA_SET_SSE3X87, f1c(0), f1d(0), C::CopyVector, V::X87},
    {ZYDIS_ISA_SET_PENTIUMMMX, f1d(23), kAlways, C::CopyVector, V::Mmx},
    {ZYDIS_ISA_SET_SSE2MMX, f1d(26), kAlways, C::CopyVector, V::Mmx},
    {ZYDIS_ISA_SET_SSSE3MMX, f1c(9), kAlways, C::CopyVector, V::Mmx},
    {ZYDIS_ISA_SET_SSE, f1d(25), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSEMXCSR, f1d(25), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSE2, f1d(26), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSE3, f1c(0), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSSE3, f1c(9), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSE4, f1c(19), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSE42, f1c(20), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SSE4A, e1c(6), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_AES, f1c(25), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_PCLMULQDQ, f1c(1), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_SHA, f7b(29), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_GFNI, f7c(8), kAlways, C::CopyVector, V::Sse},
    {ZYDIS_ISA_SET_AVX, f1c(28), kAlways, C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_AVXAES, f1c(28), f1c(25), C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_AVX2, f7b(5), kAlways, C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_AVX2GATHER, f7b(5), kAlways, C::Special, V::Avx},
    {ZYDIS_ISA_SET_F16C, f1c(29), kAlways, C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_FMA, f1c(12), kAlways, C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_AVX_GFNI, f7c(8), f1c(28), C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_AVX_VNNI, f71a(4), kAlways, C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_VAES, f7c(9), kAlways, C::CopyVector, V::Avx},
    {ZYDIS_ISA_SET_VPCLMULQDQ, f7c(10), kAlways, C::CopyVector, V::Avx},
    STRATA_ISA_512(AVX512F, kAvx512f),
    {ZYDIS_ISA_SET_AVX512F_128N, kAvx512f, kAlways, C::CopyVector, V::Avx512},
    {ZYDIS_ISA_SET_AVX512F_SCALAR, kAvx512f, kAlways, C::CopyVector, V::Avx512},
    {ZYDIS_ISA_SET_AVX512F_KOP, kAvx512f, kAlways, C::CopyVector, V::Avx512},
    STRATA_ISA_512(AVX512BW, kAvx512bw),
    {ZYDIS_ISA_SET_AVX512BW_128N, kAvx512bw, kAlways, C::CopyVector, V::Avx512},
    {ZYDIS_ISA_SET_AVX512BW_KOP, kAvx512bw, kAlways, C::CopyVector, V::Avx512},
    STRATA_ISA_512(AVX512DQ, kAvx512dq),
    {ZYDIS_ISA_SET_AVX512DQ_128N, kAvx512dq, kAlways, C::CopyVector, V::Avx512},
    {ZYDIS_ISA_SET_AVX512DQ_SCALAR, kAvx512dq, kAlways, C::CopyVector, V::Avx512},
    {ZYDIS_ISA_SET_AVX512DQ_KOP, kAvx512dq, kAlways, C::CopyVector, V::Avx512},
    STRATA_ISA_512(AVX512CD, kAvx512cd),
    STRATA_ISA_512(AVX512_BF16, f71a(5)),
    STRATA_ISA_512(AVX512_BITALG, f7c(12)),
    STRATA_ISA_512(AVX512_GFNI, f7c(8)),
    STRATA_ISA_512(AVX512_IFMA, f7b(21)),
    STRATA_ISA_512(AVX512_VAES, f7c(9)),
    STRATA_ISA_512(AVX512_VBMI, f7c(1)),
    STRATA_ISA_512(AVX512_VBMI2, f7c(6)),
    STRATA_ISA_512(AVX512_VNNI, f7c(11)),
    STRATA_ISA_512(AVX512_VP2INTERSECT, f7d(8)),
    STRATA_ISA_512(AVX512_VPCLMULQDQ, f7c(10)),
    STRATA_ISA_512(AVX512_VPOPCNTDQ, f7c(14)),
    STRATA_ISA_512(AVX512_FP16, f7d(23)),
    {ZYDIS_ISA_SET_AVX512_FP16_128N, f7d(23), kAlways, C::CopyVector, V::Avx512},
    {ZYDIS_ISA_SET_AVX512_FP16_SCALAR, f7d(23), kAlways, C::CopyVector, V::Avx512},
};
#undef STRATA_ISA_512

/// One instruction whose class is not its ISA set's.
struct Row {
    ZydisMnemonic mnemonic;
    C cls;
    V vector;
};

#define STRATA_ROW(NAME, CLASS)                  \
    Row {                                        \
        ZYDIS_MNEMONIC_##NAME, C::CLASS, V::None \
    }
#define STRATA_ROW_V(NAME, CLASS, VECTOR)          \
    Row {                                          \
        ZYDIS_MNEMONIC_##NAME, C::CLASS, V::VECTOR \
    }
constexpr Row kRows[] = {
#include "engine/soft/decode/classes.inc"
};
#undef STRATA_ROW
#undef STRATA_ROW_V

struct Tables {
    std::array<std::int16_t, ZYDIS_MNEMONIC_MAX_VALUE + 1> by_mnemonic{};
    std::array<std::int16_t, ZYDIS_ISA_SET_MAX_VALUE + 1> by_set{};
};

constexpr Tables make_tables() {
    Tables tables;
    tables.by_mnemonic.fill(-1);
    tables.by_set.fill(-1);
    for (std::size_t i = 0; i < std::size(kRows); ++i) {
        tables.by_mnemonic[kRows[i].mnemonic] = static_cast<std::int16_t>(i);
    }
    for (std::size_t i = 0; i < std::size(kIsaRows); ++i) {
        tables.by_set[kIsaRows[i].set] = static_cast<std::int16_t>(i);
    }
    return tables;
}

constexpr Tables kTables = make_tables();

bool cpuid_bit(const arch::x86::CpuidTable& cpuid, const Feature& feature) {
    if (feature.leaf == 0) {
        return true;
    }
    const arch::x86::CpuidEntry* entry = cpuid.entry(feature.leaf, feature.subleaf);
    if (entry == nullptr) {
        return false;
    }
    const arch::x86::CpuidRegisters& r = entry->registers;
    const std::uint32_t values[] = {r.eax, r.ebx, r.ecx, r.edx};
    return ((values[static_cast<std::size_t>(feature.reg)] >> feature.bit) & 1U) != 0;
}

}  // namespace

IsaSupport::IsaSupport(const arch::x86::CpuidTable& cpuid) {
    for (const IsaRow& row : kIsaRows) {
        sets_[row.set] = cpuid_bit(cpuid, row.first) && cpuid_bit(cpuid, row.second);
    }
    // SYSCALL and SYSRET are one feature, whichever set the decoder files them under.
    sets_[ZYDIS_ISA_SET_AMD] = sets_[ZYDIS_ISA_SET_AMD] || sets_[ZYDIS_ISA_SET_LONGMODE];
}

IsaSupport IsaSupport::everything() {
    IsaSupport support;
    for (const IsaRow& row : kIsaRows) {
        support.sets_[row.set] = true;
    }
    return support;
}

Classification classify(std::uint16_t mnemonic, std::uint16_t isa_set) noexcept {
    const std::int16_t set_index =
        isa_set < kTables.by_set.size() ? kTables.by_set[isa_set] : std::int16_t{-1};
    if (set_index < 0) {
        return {};
    }
    const IsaRow& isa = kIsaRows[set_index];
    const std::int16_t row_index =
        mnemonic < kTables.by_mnemonic.size() ? kTables.by_mnemonic[mnemonic] : std::int16_t{-1};
    // CMPSD and MOVSD name a string and a vector instruction each: the ISA set tells them apart.
    const bool string_name = mnemonic == ZYDIS_MNEMONIC_CMPSD || mnemonic == ZYDIS_MNEMONIC_MOVSD;
    if (row_index >= 0 && !(string_name && isa.vector != V::None)) {
        const Row& row = kRows[row_index];
        const bool plain = row.cls == C::Copy || row.cls == C::Fence;  // CRC32, MOVNTI, LFENCE …
        return {row.cls, row.vector != V::None || plain ? row.vector : isa.vector};
    }
    return {isa.cls, isa.vector};
}

}  // namespace strata::engine::soft
