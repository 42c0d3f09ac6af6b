// CpuidTable: lookup by leaf and subleaf.
#include "arch/x86/cpuid.h"

#include <utility>

namespace strata::arch::x86 {
namespace {

constexpr std::uint32_t kHypervisorFirst = 0x40000000;

}  // namespace

const CpuidEntry* CpuidTable::entry(std::uint32_t leaf, std::uint32_t subleaf) const {
    for (const CpuidEntry& candidate : entries) {
        if (candidate.leaf == leaf &&
            (!candidate.subleaf_matters || candidate.subleaf == subleaf)) {
            return &candidate;
        }
    }
    return nullptr;
}

CpuidEntry* CpuidTable::entry(std::uint32_t leaf, std::uint32_t subleaf) {
    // SAFETY: the object itself is not const here, so neither is the entry found in it.
    return const_cast<CpuidEntry*>(std::as_const(*this).entry(leaf, subleaf));
}

CpuidRegisters CpuidTable::find(std::uint32_t leaf, std::uint32_t subleaf) const {
    if (const CpuidEntry* found = entry(leaf, subleaf)) {
        return found->registers;
    }
    const CpuidEntry* basic = entry(0, 0);
    if (leaf < kHypervisorFirst && basic != nullptr && leaf > basic->registers.eax) {
        const CpuidEntry* highest = entry(basic->registers.eax, subleaf);
        return highest != nullptr ? highest->registers : CpuidRegisters{};
    }
    return {};
}

}  // namespace strata::arch::x86
