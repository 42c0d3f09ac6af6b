// software_cpuid: what the software CPU offers, from the host's CPUID and the table of features.
#include <algorithm>
#include <cstring>
#include <utility>

#include <cpuid.h>

#include "arch/x86/cpu_model.h"
#include "arch/x86/cpuid_leaves.h"

namespace strata::arch::x86 {
namespace {

/// Components of XSAVE that the software CPU carries: x87, SSE, AVX, AVX-512 as the host does, PKRU
/// itself.
constexpr std::uint32_t kSoftXcr0 = 0xe7, kPkru = 9;
constexpr std::uint32_t kFamily25Model1 = 0x00a00f11;

struct LeafRange {
    std::uint32_t leaf, subleaves;
};
constexpr LeafRange kHostLeaves[] = {
    {0, 1},          {1, 1},          {6, 1},          {7, 3},          {0xd, 20},
    {0x80000000, 1}, {0x80000001, 1}, {0x80000002, 1}, {0x80000003, 1}, {0x80000004, 1},
    {0x80000007, 1}, {0x80000008, 1}, {0x8000001a, 1}, {0x80000021, 1},
};

CpuidRegisters leaf_or_zero(const CpuidTable& table, std::uint32_t leaf,
                            std::uint32_t subleaf = 0) {
    const CpuidEntry* entry = table.entry(leaf, subleaf);
    return entry == nullptr ? CpuidRegisters{} : entry->registers;
}

void put(CpuidTable& table, std::uint32_t leaf, std::uint32_t subleaf, bool subleaves,
         const CpuidRegisters& registers) {
    if (CpuidEntry* entry = table.entry(leaf, subleaf)) {
        entry->registers = registers;
    } else {
        table.entries.push_back({leaf, subleaf, subleaves, registers});
    }
}

void copy_xsave_layout(CpuidTable& soft, const CpuidTable& host) {
    CpuidRegisters zero = leaf_or_zero(host, 0xd);
    const bool host_pkru = ((zero.eax >> kPkru) & 1) != 0;
    zero.eax = (zero.eax & kSoftXcr0) | 1U << kPkru;
    zero.edx = 0;
    put(soft, 0xd, 0, true, zero);
    std::uint32_t end = 576;
    for (std::uint32_t component = 2; component < 8; ++component) {
        const CpuidRegisters layout = leaf_or_zero(host, 0xd, component);
        // The saved image has room for kXsaveBytes; a host that lays a component out beyond it
        // cannot show it.
        const bool fits = std::uint64_t{layout.ebx} + layout.eax <= 4096 && layout.eax != 0;
        if (((zero.eax >> component) & 1) != 0 && fits) {
            put(soft, 0xd, component, true, layout);
            end = std::max(end, layout.ebx + layout.eax);
        }
    }
    // Where the host has it, else behind the others.
    put(soft, 0xd, kPkru, true, {8, host_pkru ? leaf_or_zero(host, 0xd, kPkru).ebx : end, 0, 0});
}

}  // namespace

CpuidTable host_cpuid() {
    CpuidTable table;
    const std::uint32_t max_basic = __get_cpuid_max(0, nullptr),
                        max_extended = __get_cpuid_max(0x80000000, nullptr);
    for (const LeafRange& range : kHostLeaves) {
        if (range.leaf > (range.leaf >= 0x80000000 ? max_extended : max_basic)) {
            continue;
        }
        for (std::uint32_t subleaf = 0; subleaf < range.subleaves; ++subleaf) {
            CpuidRegisters r;
            __cpuid_count(range.leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
            table.entries.push_back({range.leaf, subleaf, range.subleaves > 1, r});
        }
    }
    return table;
}

CpuidTable software_cpuid(const CpuidTable& host) {
    CpuidTable soft;
    const CpuidRegisters vendor = leaf_or_zero(host, 0);
    const bool amd_host = vendor.ebx == 0x68747541;                      // "Auth"
    put(soft, 0, 0, false, {0x1f, 0x68747541, 0x444d4163, 0x69746e65});  // "AuthenticAMD"
    put(soft, 1, 0, false, {amd_host ? leaf_or_zero(host, 1).eax : kFamily25Model1, 0, 0, 0});
    for (const CpuFeature& feature : cpu_features()) {
        if (feature.soft == SoftSupport::Always ||
            (feature.soft == SoftSupport::Host && has_feature(host, feature))) {
            set_feature(soft, feature, true);
        }
    }
    drop_unmet_dependencies(soft);
    for (std::uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
        put(soft, leaf, 0, false, leaf_or_zero(host, leaf));
    }
    CpuidRegisters sizes = leaf_or_zero(soft, 0x80000008);
    sizes.eax = 48U << 8 | 46U;  // the software MMU is not bound to the host's width
    put(soft, 0x80000008, 0, false, sizes);
    put(soft, 0x8000001a, 0, false, leaf_or_zero(host, 0x8000001a));
    if (has_feature(soft, "xsave")) {
        copy_xsave_layout(soft, host);
    }
    std::ranges::sort(soft.entries, {},
                      [](const CpuidEntry& entry) { return std::pair(entry.leaf, entry.subleaf); });
    return soft;
}

}  // namespace strata::arch::x86
