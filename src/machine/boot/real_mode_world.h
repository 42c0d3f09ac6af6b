// RealModeWorld: what real-mode code expects of a PC's firmware, for multiboot kernels that load
// below 1 MiB.
//
// Such a kernel is one that goes back to real mode, and there it may wait for the timer tick as
// under any BIOS. So a short piece of code runs before it: it sets the interrupt controllers to the
// BIOS's vectors with only the tick open, starts the tick, and jumps to the entry point. All
// interrupt vectors point to code that acknowledges and returns. There are no BIOS services.
//   0x00000 interrupt vectors · 0x00540 their handlers · 0x00580 the code that runs first.
#pragma once

#include <cstdint>

#include "machine/boot/boot_plan.h"

namespace strata::machine::boot {

/// Adds the vectors and the code to `plan`; `entry`, the state at the kernel's entry point in
/// protected mode, afterwards starts at the code. All other registers reach the kernel unchanged.
void add_real_mode_world(PlanBuilder& plan, arch::x86::ArchState& entry);

}  // namespace strata::machine::boot
