// What firmware leaves in a vCPU before it starts a kernel: MTRRs on with write-back as default,
// the local APIC in virtual wire mode.
#pragma once

#include "arch/x86/arch_state.h"

namespace strata::machine::pc {

/// Adds firmware's settings to a vCPU's power-on or entry state.
void firmware_vcpu_setup(arch::x86::ArchState& state, bool bootstrap);

}  // namespace strata::machine::pc
