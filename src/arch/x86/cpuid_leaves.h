// CpuidLeaves: makes all CPUID leaves of a vCPU from the set of features it shows. Internal to
// cpu_model.cc.
#pragma once

#include <cstdint>
#include <string_view>

#include "arch/x86/cpu_model.h"
#include "arch/x86/cpuid.h"

namespace strata::arch::x86 {

struct LeafInputs {
    std::string_view model;
    Topology topology;
    std::uint32_t vcpu_index = 0;
    const CpuidTable* supported = nullptr;
    std::uint64_t tsc_khz = 0;
};

/// Completes `features` (only feature bits set) with identity, topology, caches, XSAVE layout,
/// timing and paravirtual leaves; sorted.
[[nodiscard]] CpuidTable make_leaves(CpuidTable features, const LeafInputs& inputs);

/// Clears features whose needs are not met, until all are.
void drop_unmet_dependencies(CpuidTable& table);

}  // namespace strata::arch::x86
