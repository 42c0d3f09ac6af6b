// CpuFeature: every CPUID feature bit that Strata knows by name.
//
// The names are those of Linux's /proc/cpuinfo (where it has one), otherwise QEMU's. One table says
// where a bit lives, which psABI level asks for it, whether named models show it when the engine
// can, and what the software CPU does with it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "arch/x86/cpuid.h"

namespace strata::arch::x86 {

enum class CpuidRegister : std::uint8_t { Eax, Ebx, Ecx, Edx };

/// What the software CPU offers.
enum class SoftSupport : std::uint8_t {
    Never,   ///< neither interpreter nor translator know it
    Host,    ///< offered if the host CPU has it: the instruction itself runs there
    Always,  ///< made by the engine itself, whatever the host is
};

/// Which models show a feature.
enum class Shown : std::uint8_t {
    HostOnly,  ///< only `host` and +flag
    Level1,    ///< psABI x86-64-v1 … v4 and above demand it
    Level2,
    Level3,
    Level4,
    Platform,    ///< every model, if the engine offers it: what a kernel sees rather than a program
    OnRequest,   ///< only +flag
    Level3Hint,  ///< v3 and above, if the engine offers it: speed hints that no program demands
};

struct CpuFeature {
    std::string_view name;
    std::uint32_t leaf;
    std::uint32_t subleaf;
    CpuidRegister reg;
    std::uint8_t bit;
    Shown shown;
    SoftSupport soft;
};

/// All of them, in the order of their leaves.
[[nodiscard]] std::span<const CpuFeature> cpu_features();

/// By name; case, '-' against '_' and a few other projects' spellings ("sse4.1", "lzcnt", "sse3")
/// are forgiven. nullptr if unknown.
[[nodiscard]] const CpuFeature* find_cpu_feature(std::string_view name);

/// The name of the feature most like `name`, or "" if none is near.
[[nodiscard]] std::string_view nearest_cpu_feature(std::string_view name);

/// `feature` needs `needs` to make sense (AVX needs XSAVE): switching `needs` off switches
/// `feature` off, too.
struct CpuFeatureDependency {
    std::string_view feature;
    std::string_view needs;
};
[[nodiscard]] std::span<const CpuFeatureDependency> cpu_feature_dependencies();

[[nodiscard]] std::uint32_t& cpuid_register(CpuidRegisters& registers, CpuidRegister which);
[[nodiscard]] bool has_feature(const CpuidTable& table, const CpuFeature& feature);
/// By name; the name must exist. For code that asks for a fixed feature.
[[nodiscard]] bool has_feature(const CpuidTable& table, std::string_view name);
/// Sets or clears the bit; makes the leaf if it is missing and the bit is set. The table is sorted
/// by the caller afterwards.
void set_feature(CpuidTable& table, const CpuFeature& feature, bool on);

}  // namespace strata::arch::x86
