// CpuidTable: the CPUID leaves a guest sees, as one table that both engines are given.
#pragma once

#include <cstdint>
#include <vector>

namespace strata::arch::x86 {

struct CpuidRegisters {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
    bool operator==(const CpuidRegisters&) const = default;
};

struct CpuidEntry {
    std::uint32_t leaf = 0;
    std::uint32_t subleaf = 0;
    bool subleaf_matters = false;
    CpuidRegisters registers;
    bool operator==(const CpuidEntry&) const = default;
};

/// All leaves of one vCPU, sorted by (leaf, subleaf). Leaves that depend on run-time state
/// (OSXSAVE, the APIC ID in leaf 1/0Bh/1Fh, the XSAVE size in 0Dh.0:EBX) hold their value for this
/// vCPU; engines patch OSXSAVE and 0Dh:EBX when asked.
struct CpuidTable {
    std::vector<CpuidEntry> entries;

    /// The registers for (leaf, subleaf). Leaves past the last basic one answer as the highest
    /// basic leaf does on Intel; past the extended or hypervisor range: zeros.
    [[nodiscard]] CpuidRegisters find(std::uint32_t leaf, std::uint32_t subleaf) const;
    /// The entry itself, or nullptr.
    [[nodiscard]] const CpuidEntry* entry(std::uint32_t leaf, std::uint32_t subleaf) const;
    [[nodiscard]] CpuidEntry* entry(std::uint32_t leaf, std::uint32_t subleaf);
};

}  // namespace strata::arch::x86
