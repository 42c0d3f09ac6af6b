// Entry states: how the bootstrap vCPU looks when a boot protocol hands over to the kernel, and the
// tables it starts on.
#pragma once

#include <cstdint>

#include "arch/x86/arch_state.h"
#include "machine/boot/boot_plan.h"

namespace strata::machine::boot {

/// Selectors in the loader's GDT. Linux asks for these two numbers (Documentation/x86/boot.rst,
/// 64-bit protocol).
inline constexpr std::uint16_t kCodeSelector = 0x10;
inline constexpr std::uint16_t kDataSelector = 0x18;

/// 32-bit protected mode, flat 4 GiB segments, paging and interrupts off, at `entry`. PVH and
/// multiboot. Adds the GDT to `plan`.
[[nodiscard]] arch::x86::ArchState protected_mode_entry(PlanBuilder& plan, std::uint32_t entry);

/// 64-bit mode with the first 4 GiB identity-mapped, interrupts off, at `entry`. Adds GDT and page
/// tables to `plan`.
[[nodiscard]] arch::x86::ArchState long_mode_entry(PlanBuilder& plan, std::uint64_t entry);

}  // namespace strata::machine::boot
