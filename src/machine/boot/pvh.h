// PVH: direct boot of an ELF kernel through its XEN_ELFNOTE_PHYS32_ENTRY (Xen's
// docs/misc/pvh.pandoc; Linux, FreeBSD).
#pragma once

#include <cstddef>
#include <span>

#include "machine/boot/boot_plan.h"
#include "machine/boot/elf.h"

namespace strata::machine::boot {

/// True if the ELF file has a PVH entry note.
[[nodiscard]] bool is_pvh(std::span<const std::byte> kernel, const ElfFile& elf);

/// Plans the boot: segments at their physical addresses, hvm_start_info in ebx, 32-bit protected
/// mode.
Result<BootPlan> plan_pvh(std::span<const std::byte> kernel, const ElfFile& elf,
                          const BootEnvironment& environment);

}  // namespace strata::machine::boot
