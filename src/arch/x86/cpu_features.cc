// CpuFeature: the table, and lookup by name. SDM 2A CPUID, AMD APM 3 appendix E, Linux
// Documentation/virt/kvm/x86/cpuid.rst.
#include "arch/x86/cpu_features.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/text.h"

namespace strata::arch::x86 {
namespace {

using enum CpuidRegister;
using enum Shown;
using enum SoftSupport;

// name, leaf, subleaf, register, bit, shown by, software CPU
constexpr CpuFeature kFeatures[] = {
    {"fpu", 1, 0, Edx, 0, Level1, Host},
    {"vme", 1, 0, Edx, 1, Platform, Never},
    {"de", 1, 0, Edx, 2, Platform, Always},
    {"pse", 1, 0, Edx, 3, Platform, Always},
    {"tsc", 1, 0, Edx, 4, Platform, Always},
    {"msr", 1, 0, Edx, 5, Platform, Always},
    {"pae", 1, 0, Edx, 6, Platform, Always},
    {"mce", 1, 0, Edx, 7, Platform, Always},
    {"cx8", 1, 0, Edx, 8, Level1, Host},
    {"apic", 1, 0, Edx, 9, Platform, Always},
    {"sep", 1, 0, Edx, 11, Platform, Always},
    {"mtrr", 1, 0, Edx, 12, Platform, Always},
    {"pge", 1, 0, Edx, 13, Platform, Always},
    {"mca", 1, 0, Edx, 14, Platform, Always},
    {"cmov", 1, 0, Edx, 15, Level1, Host},
    {"pat", 1, 0, Edx, 16, Platform, Always},
    {"pse36", 1, 0, Edx, 17, Platform, Always},
    {"clflush", 1, 0, Edx, 19, Platform, Host},
    {"mmx", 1, 0, Edx, 23, Level1, Host},
    {"fxsr", 1, 0, Edx, 24, Level1, Host},
    {"sse", 1, 0, Edx, 25, Level1, Host},
    {"sse2", 1, 0, Edx, 26, Level1, Host},
    {"ss", 1, 0, Edx, 27, HostOnly, Never},
    {"pni", 1, 0, Ecx, 0, Level2, Host},
    {"pclmulqdq", 1, 0, Ecx, 1, HostOnly, Host},
    {"monitor", 1, 0, Ecx, 3, HostOnly, Never},
    {"vmx", 1, 0, Ecx, 5, HostOnly, Never},
    {"ssse3", 1, 0, Ecx, 9, Level2, Host},
    {"fma", 1, 0, Ecx, 12, Level3, Host},
    {"cx16", 1, 0, Ecx, 13, Level2, Host},
    {"pdcm", 1, 0, Ecx, 15, HostOnly, Never},
    {"pcid", 1, 0, Ecx, 17, Platform, Always},
    {"sse4_1", 1, 0, Ecx, 19, Level2, Host},
    {"sse4_2", 1, 0, Ecx, 20, Level2, Host},
    {"x2apic", 1, 0, Ecx, 21, Platform, Always},
    {"movbe", 1, 0, Ecx, 22, Level3, Host},
    {"popcnt", 1, 0, Ecx, 23, Level2, Host},
    {"tsc_deadline_timer", 1, 0, Ecx, 24, Platform, Always},
    {"aes", 1, 0, Ecx, 25, HostOnly, Host},
    {"xsave", 1, 0, Ecx, 26, Level3, Host},
    {"avx", 1, 0, Ecx, 28, Level3, Host},
    {"f16c", 1, 0, Ecx, 29, Level3, Host},
    {"rdrand", 1, 0, Ecx, 30, HostOnly, Host},
    {"hypervisor", 1, 0, Ecx, 31, Platform, Always},

    {"arat", 6, 0, Eax, 2, Platform, Always},

    {"fsgsbase", 7, 0, Ebx, 0, Platform, Always},
    {"tsc_adjust", 7, 0, Ebx, 1, Platform, Always},
    {"bmi1", 7, 0, Ebx, 3, Level3, Host},
    {"hle", 7, 0, Ebx, 4, HostOnly, Never},
    {"avx2", 7, 0, Ebx, 5, Level3, Host},
    {"smep", 7, 0, Ebx, 7, Platform, Always},
    {"bmi2", 7, 0, Ebx, 8, Level3, Host},
    {"erms", 7, 0, Ebx, 9, Level3Hint, Host},
    {"invpcid", 7, 0, Ebx, 10, Platform, Always},
    {"rtm", 7, 0, Ebx, 11, HostOnly, Never},
    {"mpx", 7, 0, Ebx, 14, HostOnly, Never},
    {"avx512f", 7, 0, Ebx, 16, Level4, Host},
    {"avx512dq", 7, 0, Ebx, 17, Level4, Host},
    {"rdseed", 7, 0, Ebx, 18, HostOnly, Host},
    {"adx", 7, 0, Ebx, 19, HostOnly, Host},
    {"smap", 7, 0, Ebx, 20, Platform, Always},
    {"avx512ifma", 7, 0, Ebx, 21, HostOnly, Host},
    {"clflushopt", 7, 0, Ebx, 23, HostOnly, Host},
    {"clwb", 7, 0, Ebx, 24, HostOnly, Host},
    {"avx512cd", 7, 0, Ebx, 28, Level4, Host},
    {"sha_ni", 7, 0, Ebx, 29, HostOnly, Host},
    {"avx512bw", 7, 0, Ebx, 30, Level4, Host},
    {"avx512vl", 7, 0, Ebx, 31, Level4, Host},
    {"avx512vbmi", 7, 0, Ecx, 1, HostOnly, Host},
    {"umip", 7, 0, Ecx, 2, Platform, Always},
    {"pku", 7, 0, Ecx, 3, HostOnly, Always},
    {"waitpkg", 7, 0, Ecx, 5, HostOnly, Never},
    {"avx512_vbmi2", 7, 0, Ecx, 6, HostOnly, Host},
    {"shstk", 7, 0, Ecx, 7, HostOnly, Never},
    {"gfni", 7, 0, Ecx, 8, HostOnly, Host},
    {"vaes", 7, 0, Ecx, 9, HostOnly, Host},
    {"vpclmulqdq", 7, 0, Ecx, 10, HostOnly, Host},
    {"avx512_vnni", 7, 0, Ecx, 11, HostOnly, Host},
    {"avx512_bitalg", 7, 0, Ecx, 12, HostOnly, Host},
    {"avx512_vpopcntdq", 7, 0, Ecx, 14, HostOnly, Host},
    {"la57", 7, 0, Ecx, 16, HostOnly, Never},
    {"rdpid", 7, 0, Ecx, 22, HostOnly, Always},
    {"cldemote", 7, 0, Ecx, 25, HostOnly, Never},
    {"movdiri", 7, 0, Ecx, 27, HostOnly, Never},
    {"movdir64b", 7, 0, Ecx, 28, HostOnly, Never},
    {"avx512_4vnniw", 7, 0, Edx, 2, HostOnly, Never},
    {"avx512_4fmaps", 7, 0, Edx, 3, HostOnly, Never},
    {"fsrm", 7, 0, Edx, 4, Level3Hint, Host},
    {"avx512_vp2intersect", 7, 0, Edx, 8, HostOnly, Host},
    {"md_clear", 7, 0, Edx, 10, HostOnly, Never},
    {"serialize", 7, 0, Edx, 14, HostOnly, Never},
    {"ibt", 7, 0, Edx, 20, HostOnly, Never},
    {"amx_bf16", 7, 0, Edx, 22, HostOnly, Never},
    {"avx512_fp16", 7, 0, Edx, 23, HostOnly, Host},
    {"amx_tile", 7, 0, Edx, 24, HostOnly, Never},
    {"amx_int8", 7, 0, Edx, 25, HostOnly, Never},
    {"spec_ctrl", 7, 0, Edx, 26, HostOnly, Never},
    {"intel_stibp", 7, 0, Edx, 27, HostOnly, Never},
    {"flush_l1d", 7, 0, Edx, 28, HostOnly, Never},
    {"arch_capabilities", 7, 0, Edx, 29, Platform, Never},
    {"ssbd", 7, 0, Edx, 31, HostOnly, Never},
    {"sha512", 7, 1, Eax, 0, HostOnly, Host},
    {"sm3", 7, 1, Eax, 1, HostOnly, Host},
    {"sm4", 7, 1, Eax, 2, HostOnly, Host},
    {"avx_vnni", 7, 1, Eax, 4, HostOnly, Host},
    {"avx512_bf16", 7, 1, Eax, 5, HostOnly, Host},
    {"cmpccxadd", 7, 1, Eax, 7, HostOnly, Never},
    {"fzrm", 7, 1, Eax, 10, Level3Hint, Host},
    {"fsrs", 7, 1, Eax, 11, Level3Hint, Host},
    {"fsrc", 7, 1, Eax, 12, Level3Hint, Host},
    {"avx_ifma", 7, 1, Eax, 23, HostOnly, Host},
    {"lam", 7, 1, Eax, 26, HostOnly, Never},
    {"avx_vnni_int8", 7, 1, Edx, 4, HostOnly, Host},
    {"avx_ne_convert", 7, 1, Edx, 5, HostOnly, Host},
    {"bhi_ctrl", 7, 2, Edx, 4, HostOnly, Never},
    {"mcdt_no", 7, 2, Edx, 5, Platform, Always},

    {"xsaveopt", 0xd, 1, Eax, 0, Platform, Host},
    {"xsavec", 0xd, 1, Eax, 1, Platform, Host},
    {"xgetbv1", 0xd, 1, Eax, 2, Platform, Host},
    {"xsaves", 0xd, 1, Eax, 3, HostOnly, Never},

    {"kvm_clock_old", 0x40000001, 0, Eax, 0, Platform, Always},
    {"kvm_nopiodelay", 0x40000001, 0, Eax, 1, Platform, Always},
    {"kvm_clock", 0x40000001, 0, Eax, 3, Platform, Always},
    {"kvm_async_pf", 0x40000001, 0, Eax, 4, HostOnly, Never},
    {"kvm_steal_time", 0x40000001, 0, Eax, 5, Platform, Always},
    {"kvm_pv_eoi", 0x40000001, 0, Eax, 6, Platform, Always},
    {"kvm_pv_unhalt", 0x40000001, 0, Eax, 7, Platform, Always},
    {"kvm_pv_tlb_flush", 0x40000001, 0, Eax, 9, Platform, Always},
    {"kvm_async_pf_vmexit", 0x40000001, 0, Eax, 10, HostOnly, Never},
    {"kvm_pv_send_ipi", 0x40000001, 0, Eax, 11, Platform, Always},
    {"kvm_poll_control", 0x40000001, 0, Eax, 12, Platform, Never},
    {"kvm_pv_sched_yield", 0x40000001, 0, Eax, 13, Platform, Always},
    {"kvm_async_pf_int", 0x40000001, 0, Eax, 14, HostOnly, Never},
    {"kvm_msi_ext_dest_id", 0x40000001, 0, Eax, 15, HostOnly, Never},
    {"kvmclock_stable", 0x40000001, 0, Eax, 24, Platform, Always},

    {"lahf_lm", 0x80000001, 0, Ecx, 0, Level2, Host},
    {"cmp_legacy", 0x80000001, 0, Ecx, 1, HostOnly, Never},
    {"svm", 0x80000001, 0, Ecx, 2, HostOnly, Never},
    {"extapic", 0x80000001, 0, Ecx, 3, HostOnly, Never},
    {"cr8_legacy", 0x80000001, 0, Ecx, 4, Platform, Always},
    {"abm", 0x80000001, 0, Ecx, 5, Level3, Host},
    {"sse4a", 0x80000001, 0, Ecx, 6, HostOnly, Host},
    {"misalignsse", 0x80000001, 0, Ecx, 7, HostOnly, Host},
    {"3dnowprefetch", 0x80000001, 0, Ecx, 8, Platform, Host},
    {"osvw", 0x80000001, 0, Ecx, 9, HostOnly, Never},
    {"xop", 0x80000001, 0, Ecx, 11, HostOnly, Never},
    {"fma4", 0x80000001, 0, Ecx, 16, HostOnly, Never},
    {"tbm", 0x80000001, 0, Ecx, 21, HostOnly, Never},
    {"topoext", 0x80000001, 0, Ecx, 22, Platform, Always},
    {"perfctr_core", 0x80000001, 0, Ecx, 23, HostOnly, Never},
    {"bpext", 0x80000001, 0, Ecx, 26, HostOnly, Never},
    {"syscall", 0x80000001, 0, Edx, 11, Level1, Always},
    {"nx", 0x80000001, 0, Edx, 20, Platform, Always},
    {"mmxext", 0x80000001, 0, Edx, 22, HostOnly, Host},
    {"fxsr_opt", 0x80000001, 0, Edx, 25, HostOnly, Never},
    {"pdpe1gb", 0x80000001, 0, Edx, 26, Platform, Always},
    {"rdtscp", 0x80000001, 0, Edx, 27, Platform, Always},
    {"lm", 0x80000001, 0, Edx, 29, Level1, Always},
    {"3dnowext", 0x80000001, 0, Edx, 30, HostOnly, Never},
    {"3dnow", 0x80000001, 0, Edx, 31, HostOnly, Never},

    // Not shown unasked: Linux then prefers the raw TSC, which does not follow the machine through
    // pauses and to other hosts, over kvm-clock.
    {"invtsc", 0x80000007, 0, Edx, 8, OnRequest, Host},

    {"clzero", 0x80000008, 0, Ebx, 0, HostOnly, Never},
    {"xsaveerptr", 0x80000008, 0, Ebx, 2, Platform, Host},
    {"rdpru", 0x80000008, 0, Ebx, 4, HostOnly, Never},
    {"wbnoinvd", 0x80000008, 0, Ebx, 9, HostOnly, Never},
    {"amd_ibpb", 0x80000008, 0, Ebx, 12, HostOnly, Never},
    {"amd_ibrs", 0x80000008, 0, Ebx, 14, HostOnly, Never},
    {"amd_stibp", 0x80000008, 0, Ebx, 15, HostOnly, Never},
    {"amd_stibp_always_on", 0x80000008, 0, Ebx, 17, HostOnly, Never},
    {"amd_ssbd", 0x80000008, 0, Ebx, 24, HostOnly, Never},
    {"virt_ssbd", 0x80000008, 0, Ebx, 25, HostOnly, Never},
    {"amd_ssb_no", 0x80000008, 0, Ebx, 26, Platform, Always},
    {"btc_no", 0x80000008, 0, Ebx, 29, Platform, Always},
    {"amd_psfd", 0x80000008, 0, Ebx, 28, HostOnly, Never},
    {"ibpb_ret", 0x80000008, 0, Ebx, 30, HostOnly, Never},

    {"no_nested_data_bp", 0x80000021, 0, Eax, 0, HostOnly, Never},
    {"lfence_always_serializing", 0x80000021, 0, Eax, 2, Platform, Always},
    {"verw_clear", 0x80000021, 0, Eax, 5, HostOnly, Never},
    {"null_sel_clr_base", 0x80000021, 0, Eax, 6, Platform, Always},
    {"auto_ibrs", 0x80000021, 0, Eax, 8, Platform, Always},
    {"no_smm_ctl_msr", 0x80000021, 0, Eax, 9, Platform, Always},
    {"sbpb", 0x80000021, 0, Eax, 27, HostOnly, Never},
    {"ibpb_brtype", 0x80000021, 0, Eax, 28, HostOnly, Never},
    {"srso_no", 0x80000021, 0, Eax, 29, Platform, Always},
    {"srso_user_kernel_no", 0x80000021, 0, Eax, 30, HostOnly, Never},
    {"tsa_sq_no", 0x80000021, 0, Ecx, 1, Platform, Always},
    {"tsa_l1_no", 0x80000021, 0, Ecx, 2, Platform, Always},
};

struct Alias {
    std::string_view alias, name;
};
// Other spellings, already normalised.
constexpr Alias kAliases[] = {
    {"sse3", "pni"},
    {"lzcnt", "abm"},
    {"sha", "sha_ni"},
    {"tsc_deadline", "tsc_deadline_timer"},
    {"constant_tsc", "invtsc"},
    {"nonstop_tsc", "invtsc"},
    {"cmpxchg8b", "cx8"},
    {"cmpxchg16b", "cx16"},
    {"pclmul", "pclmulqdq"},
    {"xd", "nx"},
    {"kvmclock", "kvm_clock"},
    {"kvmclock_stable_bit", "kvmclock_stable"},
    {"kvm_pv_ipi", "kvm_pv_send_ipi"},
    {"ffxsr", "fxsr_opt"},
    {"autoibrs", "auto_ibrs"},
    {"ibpb", "amd_ibpb"},
    {"ibrs", "amd_ibrs"},
    {"stibp", "amd_stibp"},
    {"bmi", "bmi1"},
    {"avx512vnni", "avx512_vnni"},
};

constexpr CpuFeatureDependency kDependencies[] = {
    {"sse", "fxsr"},
    {"sse2", "sse"},
    {"pni", "sse2"},
    {"ssse3", "pni"},
    {"sse4_1", "ssse3"},
    {"sse4_2", "sse4_1"},
    {"aes", "sse2"},
    {"pclmulqdq", "sse2"},
    {"sha_ni", "sse2"},
    {"gfni", "sse2"},
    {"sse4a", "pni"},
    {"misalignsse", "sse2"},
    {"xsaveopt", "xsave"},
    {"xsavec", "xsave"},
    {"xgetbv1", "xsave"},
    {"xsaves", "xsave"},
    {"avx", "xsave"},
    {"pku", "xsave"},
    {"avx", "sse4_2"},
    {"fma", "avx"},
    {"f16c", "avx"},
    {"avx2", "avx"},
    {"vaes", "avx"},
    {"vpclmulqdq", "avx"},
    {"vaes", "aes"},
    {"vpclmulqdq", "pclmulqdq"},
    {"avx_vnni", "avx2"},
    {"avx_ifma", "avx2"},
    {"avx_vnni_int8", "avx2"},
    {"avx_ne_convert", "avx2"},
    {"sha512", "avx2"},
    {"sm3", "avx2"},
    {"sm4", "avx2"},
    {"avx512f", "avx2"},
    {"avx512dq", "avx512f"},
    {"avx512ifma", "avx512f"},
    {"avx512cd", "avx512f"},
    {"avx512bw", "avx512f"},
    {"avx512vl", "avx512f"},
    {"avx512vbmi", "avx512bw"},
    {"avx512_vbmi2", "avx512bw"},
    {"avx512_vnni", "avx512f"},
    {"avx512_bitalg", "avx512bw"},
    {"avx512_vpopcntdq", "avx512f"},
    {"avx512_4vnniw", "avx512f"},
    {"avx512_4fmaps", "avx512f"},
    {"avx512_vp2intersect", "avx512f"},
    {"avx512_bf16", "avx512bw"},
    {"avx512_fp16", "avx512bw"},
    {"mmxext", "mmx"},
    {"rdtscp", "tsc"},
    {"tsc_deadline_timer", "apic"},
    {"x2apic", "apic"},
    {"kvm_clock", "hypervisor"},
    {"kvm_clock_old", "hypervisor"},
    {"kvmclock_stable", "kvm_clock"},
    {"kvm_pv_eoi", "hypervisor"},
    {"kvm_pv_unhalt", "hypervisor"},
    {"kvm_pv_tlb_flush", "kvm_steal_time"},
    {"kvm_pv_send_ipi", "hypervisor"},
    {"kvm_pv_sched_yield", "kvm_steal_time"},
    {"kvm_steal_time", "hypervisor"},
    {"lm", "pae"},
    {"amx_bf16", "amx_tile"},
    {"amx_int8", "amx_tile"},
    {"amx_tile", "xsave"},
};

std::string normalised(std::string_view name) {
    std::string out(name);
    for (char& c : out) {
        if (c == '-' || c == '.') {
            c = '_';
        } else if (c >= 'A' && c <= 'Z') {
            c = static_cast<char>(c - 'A' + 'a');
        }
    }
    return out;
}

}  // namespace

std::span<const CpuFeature> cpu_features() {
    return kFeatures;
}

std::span<const CpuFeatureDependency> cpu_feature_dependencies() {
    return kDependencies;
}

const CpuFeature* find_cpu_feature(std::string_view name) {
    std::string wanted = normalised(name);
    for (const Alias& alias : kAliases) {
        if (alias.alias == wanted) {
            wanted = alias.name;
        }
    }
    const auto* found = std::ranges::find(kFeatures, std::string_view(wanted), &CpuFeature::name);
    return found == std::end(kFeatures) ? nullptr : found;
}

std::string_view nearest_cpu_feature(std::string_view name) {
    std::vector<std::string_view> names;
    for (const CpuFeature& feature : kFeatures) {
        names.push_back(feature.name);
    }
    return nearest(normalised(name), names);
}

std::uint32_t& cpuid_register(CpuidRegisters& registers, CpuidRegister which) {
    const std::array all = {&registers.eax, &registers.ebx, &registers.ecx, &registers.edx};
    return *all[static_cast<std::size_t>(which)];
}

bool has_feature(const CpuidTable& table, const CpuFeature& feature) {
    const CpuidEntry* entry = table.entry(feature.leaf, feature.subleaf);
    if (entry == nullptr) {
        return false;
    }
    CpuidRegisters registers = entry->registers;
    return ((cpuid_register(registers, feature.reg) >> feature.bit) & 1) != 0;
}

bool has_feature(const CpuidTable& table, std::string_view name) {
    const CpuFeature* feature = find_cpu_feature(name);
    STRATA_CHECK(feature != nullptr, name);
    return has_feature(table, *feature);
}

void set_feature(CpuidTable& table, const CpuFeature& feature, bool on) {
    CpuidEntry* entry = table.entry(feature.leaf, feature.subleaf);
    if (entry == nullptr) {
        if (!on) {
            return;
        }
        const bool subleaves = feature.leaf == 7 || feature.leaf == 0xd;
        table.entries.push_back({feature.leaf, feature.subleaf, subleaves, {}});
        entry = &table.entries.back();
    }
    std::uint32_t& word = cpuid_register(entry->registers, feature.reg);
    const std::uint32_t bit = 1U << feature.bit;
    word = on ? word | bit : word & ~bit;
}

}  // namespace strata::arch::x86
