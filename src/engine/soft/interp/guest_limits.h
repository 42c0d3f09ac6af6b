// Guest limits: what the guest's CPUID table implies for control registers. Computed when a context
// is attached.
#pragma once

#include <cstdint>

#include "arch/x86/cpuid.h"

namespace strata::engine::soft {

[[nodiscard]] std::uint64_t reserved_physical_bits(const arch::x86::CpuidTable& cpuid);
[[nodiscard]] std::uint64_t reserved_cr4_bits(const arch::x86::CpuidTable& cpuid);
[[nodiscard]] std::uint64_t supported_xcr0(const arch::x86::CpuidTable& cpuid);

}  // namespace strata::engine::soft
