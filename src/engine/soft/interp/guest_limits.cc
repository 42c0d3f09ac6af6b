// Guest limits: see guest_limits.h. SDM 3A 2.5, table 2-2 of CPUID.
#include "engine/soft/interp/guest_limits.h"

#include "arch/x86/registers.h"

namespace strata::engine::soft {
namespace {

namespace cr4 = arch::x86::cr4;

enum class Source : std::uint8_t { Leaf1Edx, Leaf1Ecx, Leaf7Ebx, Leaf7Ecx };

struct Cr4Row {
    std::uint64_t bits;
    Source source;
    unsigned bit;
};

constexpr Cr4Row kRows[] = {
    {cr4::kVme | cr4::kPvi, Source::Leaf1Edx, 1},
    {cr4::kDe, Source::Leaf1Edx, 2},
    {cr4::kPse, Source::Leaf1Edx, 3},
    {cr4::kTsd, Source::Leaf1Edx, 4},
    {cr4::kPae, Source::Leaf1Edx, 6},
    {cr4::kMce, Source::Leaf1Edx, 7},
    {cr4::kPge, Source::Leaf1Edx, 13},
    {cr4::kOsfxsr, Source::Leaf1Edx, 24},
    {cr4::kOsxmmexcpt, Source::Leaf1Edx, 25},
    {cr4::kPcide, Source::Leaf1Ecx, 17},
    {cr4::kOsxsave, Source::Leaf1Ecx, 26},
    {cr4::kFsgsbase, Source::Leaf7Ebx, 0},
    {cr4::kSmep, Source::Leaf7Ebx, 7},
    {cr4::kSmap, Source::Leaf7Ebx, 20},
    {cr4::kUmip, Source::Leaf7Ecx, 2},
    {cr4::kPke, Source::Leaf7Ecx, 3},
};

}  // namespace

std::uint64_t reserved_physical_bits(const arch::x86::CpuidTable& cpuid) {
    const arch::x86::CpuidEntry* entry = cpuid.entry(0x80000008, 0);
    const unsigned bits = entry != nullptr && (entry->registers.eax & 0xffU) >= 32
                              ? entry->registers.eax & 0xffU
                              : 46;
    return bits >= 52 ? ~((1ULL << 52U) - 1) : ~((1ULL << bits) - 1);
}

std::uint64_t reserved_cr4_bits(const arch::x86::CpuidTable& cpuid) {
    const arch::x86::CpuidRegisters one = cpuid.find(1, 0);
    const arch::x86::CpuidEntry* seven_entry = cpuid.entry(7, 0);
    const arch::x86::CpuidRegisters seven =
        seven_entry != nullptr ? seven_entry->registers : arch::x86::CpuidRegisters{};
    std::uint64_t allowed = cr4::kPce;
    for (const Cr4Row& row : kRows) {
        const std::uint32_t words[] = {one.edx, one.ecx, seven.ebx, seven.ecx};
        if (((words[static_cast<unsigned>(row.source)] >> row.bit) & 1U) != 0) {
            allowed |= row.bits;
        }
    }
    return ~allowed;
}

std::uint64_t supported_xcr0(const arch::x86::CpuidTable& cpuid) {
    const arch::x86::CpuidEntry* entry = cpuid.entry(0xd, 0);
    const std::uint64_t bits =
        entry != nullptr
            ? entry->registers.eax | (static_cast<std::uint64_t>(entry->registers.edx) << 32U)
            : 1;
    return (bits & 0x2e7U) | 1U;  // x87, SSE, AVX, AVX-512, PKRU
}

}  // namespace strata::engine::soft
