// CpuidLeaves: SDM 2A CPUID, AMD APM 3 appendix E, Linux Documentation/virt/kvm/x86/cpuid.rst.
#include "arch/x86/cpuid_leaves.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include <fmt/format.h>

namespace strata::arch::x86 {
namespace {

constexpr std::uint32_t kMaxBasic = 0x1f, kMaxHypervisor = 0x40000010, kMaxExtendedAmd = 0x80000021,
                        kMaxExtended = 0x80000008;
/// Family 25 model 1 stepping 1 (Zen 3): the generic models' identity where the vendor is AMD;
/// family 6 model 85 (Skylake-SP) else.
constexpr std::uint32_t kGenericAmdSignature = 0x00a00f11, kGenericIntelSignature = 0x00050654;
constexpr std::uint32_t kLegacyAreaBytes = 576;  // x87 and SSE, header included. SDM 1, 13.4.1
/// XSAVE components by the feature that brings them. MPX (3, 4) and AMX (17, 18) are never shown.
struct Component {
    unsigned bit;
    std::string_view feature;
};
constexpr Component kComponents[] = {
    {2, "avx"}, {5, "avx512f"}, {6, "avx512f"}, {7, "avx512f"}, {9, "pku"}};

struct Cache {
    unsigned level;
    unsigned type;  // 1 data, 2 instruction, 3 unified
    unsigned ways;
    unsigned sets;
    bool per_socket;
};
constexpr Cache kCaches[] = {
    {1, 1, 8, 64, false}, {1, 2, 8, 64, false}, {2, 3, 8, 2048, false}, {3, 3, 16, 16384, true}};
constexpr std::uint32_t kLineBytes = 64;

/// Builds one table; each method adds a family of leaves.
class LeafMaker {
  public:
    LeafMaker(CpuidTable& table, const LeafInputs& inputs)
        : table_(table), in_(inputs), apic_id_(inputs.topology.apic_id(inputs.vcpu_index)) {
        const CpuidRegisters vendor = inputs.supported->find(0, 0);
        amd_ = vendor.ebx == 0x68747541 || vendor.ebx == 0x6f677948;  // "Auth", "Hygo"
    }

    void identity();
    void topology_leaves();
    void caches();
    void xsave();
    void timing();
    void hypervisor();
    void extended();
    void brand();

  private:
    CpuidRegisters& leaf(std::uint32_t number, std::uint32_t subleaf = 0, bool subleaves = false) {
        CpuidEntry* entry = table_.entry(number, subleaf);
        if (entry == nullptr) {
            table_.entries.push_back({number, subleaf, subleaves, {}});
            entry = &table_.entries.back();
        }
        return entry->registers;
    }
    [[nodiscard]] CpuidRegisters offered(std::uint32_t number, std::uint32_t subleaf = 0) const {
        const CpuidEntry* entry = in_.supported->entry(number, subleaf);
        return entry == nullptr ? CpuidRegisters{} : entry->registers;
    }
    [[nodiscard]] bool shows(std::string_view feature) const {
        return has_feature(table_, feature);
    }
    [[nodiscard]] std::uint32_t signature() const;
    [[nodiscard]] std::uint32_t sharing(const Cache& cache) const {
        const std::uint32_t ids =
            1U << (cache.per_socket ? in_.topology.socket_shift() : in_.topology.thread_bits());
        return ids - 1;
    }

    CpuidTable& table_;
    const LeafInputs& in_;
    std::uint32_t apic_id_;
    bool amd_ = false;
};

std::uint32_t LeafMaker::signature() const {
    if (in_.model == "host") {
        return offered(1).eax;
    }
    return amd_ ? kGenericAmdSignature : kGenericIntelSignature;
}

void LeafMaker::identity() {
    const CpuidRegisters vendor = offered(0);
    leaf(0) = {kMaxBasic, vendor.ebx, vendor.ecx, vendor.edx};
    CpuidRegisters& one = leaf(1);
    const std::uint32_t ids_per_socket = 1U << in_.topology.socket_shift();
    one.eax = signature();
    one.ebx = (apic_id_ << 24) | (std::min(ids_per_socket, 255U) << 16) | ((kLineBytes / 8) << 8);
    if (ids_per_socket > 1) {
        one.edx |= 1U << 28;  // HTT: EBX[23:16] is valid
    }
    // Cache descriptors: "see leaf 4". AMD has no leaf 2.
    leaf(2) = amd_ ? CpuidRegisters{} : CpuidRegisters{0x00feff01, 0, 0, 0x00000000};
    leaf(7, 0, true).eax = table_.entry(7, 2) != nullptr   ? 2
                           : table_.entry(7, 1) != nullptr ? 1
                                                           : 0;
    leaf(0xa) = {};  // no performance counters
}

void LeafMaker::topology_leaves() {
    const Topology& topology = in_.topology;
    constexpr std::uint32_t kThreadLevel = 1U << 8, kCoreLevel = 2U << 8;
    for (const std::uint32_t number : {0xbU, 0x1fU}) {
        leaf(number, 0, true) = {topology.thread_bits(), topology.threads, kThreadLevel, apic_id_};
        leaf(number, 1, true) = {topology.socket_shift(), topology.cores * topology.threads,
                                 kCoreLevel | 1, apic_id_};
        leaf(number, 2, true) = {0, 0, 2, apic_id_};
    }
}

void LeafMaker::caches() {
    const std::uint32_t cores = 1U << (in_.topology.socket_shift() - in_.topology.thread_bits());
    std::uint32_t subleaf = 0;
    for (const Cache& cache : kCaches) {
        const std::uint32_t core_field = amd_ ? 0 : (std::min(cores, 64U) - 1) << 26;
        const CpuidRegisters registers{cache.type | (cache.level << 5) | (1U << 8) |
                                           (std::min(sharing(cache), 0xfffU) << 14) | core_field,
                                       (kLineBytes - 1) | ((cache.ways - 1) << 22), cache.sets - 1,
                                       0};
        leaf(amd_ ? 0x8000001d : 4, subleaf++, true) = registers;
    }
    leaf(amd_ ? 0x8000001d : 4, subleaf, true) = {};
    if (amd_) {
        leaf(0x80000005) = {0xff48ff40, 0xff48ff40, 0x20080140,
                            0x20080140};  // TLBs; 32 KiB 8-way 64-byte lines
        leaf(0x80000006) = {0x5c002200, 0x6c004200, (1024U << 16) | 0x6140,
                            (32U << 18) | 0x8140};  // 1 MiB 8-way, 16 MiB 16-way
    } else {
        leaf(0x80000006) = {0, 0, (1024U << 16) | 0x6040, 0};
    }
}

void LeafMaker::xsave() {
    if (!shows("xsave")) {
        std::erase_if(table_.entries, [](const CpuidEntry& entry) { return entry.leaf == 0xd; });
        return;
    }
    std::uint32_t components = 3, standard = kLegacyAreaBytes, compacted = kLegacyAreaBytes;
    for (const Component& component : kComponents) {
        if (!shows(component.feature) || ((offered(0xd).eax >> component.bit) & 1) == 0) {
            continue;
        }
        const CpuidRegisters layout = offered(0xd, component.bit);
        components |= 1U << component.bit;
        standard = std::max(standard, layout.ebx + layout.eax);
        compacted = ((layout.ecx & 2) != 0 ? (compacted + 63) & ~63U : compacted) + layout.eax;
        leaf(0xd, component.bit, true) = {layout.eax, layout.ebx, layout.ecx & 2, 0};
    }
    leaf(0xd, 0, true) = {components, kLegacyAreaBytes, standard, 0};
    CpuidRegisters& extra = leaf(0xd, 1, true);
    extra.ebx = shows("xsavec") || shows("xsaves") ? compacted : 0;
    extra.ecx = 0;  // no supervisor components (CET, PT) are shown
}

void LeafMaker::timing() {
    if (in_.tsc_khz == 0) {
        return;
    }
    // TSC = crystal * EBX / EAX, with a crystal of the local APIC's bus frequency, so that both
    // calibrations agree. SDM 3B, 19.7.3
    leaf(0x15) = {kApicBusKhz, static_cast<std::uint32_t>(in_.tsc_khz), kApicBusKhz * 1000U, 0};
    const auto mhz =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(in_.tsc_khz / 1000, 0xffff));
    leaf(0x16) = {mhz, mhz, 100, 0};
}

void LeafMaker::hypervisor() {
    if (!shows("hypervisor")) {
        std::erase_if(table_.entries,
                      [](const CpuidEntry& entry) { return entry.leaf >> 16 == 0x4000; });
        return;
    }
    leaf(0x40000000) = {kMaxHypervisor, 0x4b4d564b, 0x564b4d56, 0x0000004d};  // "KVMKVMKVM"
    (void)leaf(0x40000001);  // the feature bits are set already; without any, the leaf is there all
                             // the same
    if (in_.tsc_khz != 0) {
        leaf(kMaxHypervisor) = {static_cast<std::uint32_t>(in_.tsc_khz), kApicBusKhz, 0, 0};
    }
}

void LeafMaker::brand() {
    std::array<char, 48> text{};
    const std::string generic = fmt::format("Strata virtual CPU {}", in_.model);
    std::memcpy(text.data(), generic.data(), std::min(generic.size(), text.size() - 1));
    for (std::uint32_t i = 0; i < 3; ++i) {
        CpuidRegisters words = offered(0x80000002 + i);
        if (in_.model != "host" || offered(0x80000002) == CpuidRegisters{}) {
            // SAFETY: CpuidRegisters is four 32-bit words, 16 bytes, and text has 48.
            std::memcpy(&words, text.data() + std::size_t{16} * i, 16);
        }
        leaf(0x80000002 + i) = words;
    }
}

void LeafMaker::extended() {
    const CpuidRegisters vendor = offered(0);
    for (const std::uint32_t number : {0x80000001U, 0x80000007U, 0x80000008U, 0x80000021U}) {
        (void)leaf(number);  // all there before a reference to one is taken
    }
    leaf(0x80000000) = amd_ ? CpuidRegisters{kMaxExtendedAmd, vendor.ebx, vendor.ecx, vendor.edx}
                            : CpuidRegisters{kMaxExtended, 0, 0, 0};
    CpuidRegisters& one = leaf(0x80000001);
    const std::uint32_t per_socket = in_.topology.cores * in_.topology.threads;
    if (amd_) {
        one.eax = signature();
        one.edx |= leaf(1).edx & 0x0183f3ff;  // the copies of leaf 1. APM 3, E.4.2
        if (per_socket > 1) {
            one.ecx |= 2;  // CmpLegacy
        }
    }
    const std::uint32_t physical_bits = offered(0x80000008).eax & 0xff;
    CpuidRegisters& sizes = leaf(0x80000008);
    sizes.eax = (physical_bits == 0 ? 40 : physical_bits) | ((shows("la57") ? 57U : 48U) << 8);
    if (!amd_) {
        sizes.ebx = 0;
        std::erase_if(table_.entries,
                      [](const CpuidEntry& entry) { return entry.leaf > kMaxExtended; });
        return;
    }
    sizes.ecx = (per_socket - 1) | (in_.topology.socket_shift() << 12);
    leaf(0x8000001a) = offered(0x8000001a);
    const std::uint32_t core = in_.vcpu_index / in_.topology.threads % in_.topology.cores;
    const std::uint32_t socket = in_.vcpu_index / in_.topology.threads / in_.topology.cores;
    leaf(0x8000001e) = {apic_id_, (core & 0xff) | ((in_.topology.threads - 1) << 8), socket & 0xff,
                        0};
}

}  // namespace

CpuidTable make_leaves(CpuidTable features, const LeafInputs& inputs) {
    LeafMaker maker(features, inputs);
    maker.identity();
    maker.topology_leaves();
    maker.xsave();
    maker.timing();
    maker.hypervisor();
    maker.caches();
    maker.brand();
    maker.extended();
    std::ranges::sort(features.entries, {},
                      [](const CpuidEntry& entry) { return std::pair(entry.leaf, entry.subleaf); });
    return features;
}

void drop_unmet_dependencies(CpuidTable& table) {
    for (bool changed = true; changed;) {
        changed = false;
        for (const auto& [feature, needs] : cpu_feature_dependencies()) {
            if (has_feature(table, feature) && !has_feature(table, needs)) {
                set_feature(table, *find_cpu_feature(feature), false);
                changed = true;
            }
        }
    }
}

}  // namespace strata::arch::x86
