// Linux bzImage: the 64-bit boot protocol (Documentation/x86/boot.rst), version 2.12 or newer with
// a 64-bit entry point.
#pragma once

#include <cstddef>
#include <span>

#include "machine/boot/boot_plan.h"

namespace strata::machine::boot {

/// True if the file carries the Linux setup header.
[[nodiscard]] bool is_bzimage(std::span<const std::byte> kernel);

/// Plans the boot of a bzImage: kernel at its preferred address, initrd high below 4 GiB, zero page
/// with the memory map and the ACPI root pointer. Errors: a truncated or 32-bit-only kernel, too
/// little memory, a command line too long.
Result<BootPlan> plan_bzimage(std::span<const std::byte> kernel,
                              const BootEnvironment& environment);

}  // namespace strata::machine::boot
