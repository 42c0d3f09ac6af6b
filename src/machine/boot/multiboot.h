// Multiboot 1: boot of ELF or plain binaries that carry a multiboot header (Multiboot Specification
// 0.6.96).
#pragma once

#include <cstddef>
#include <span>

#include "machine/boot/boot_plan.h"

namespace strata::machine::boot {

/// True if there is a multiboot header with a valid checksum in the first 8 KiB.
[[nodiscard]] bool is_multiboot(std::span<const std::byte> kernel);

/// Plans the boot: by the ELF program headers or the header's own addresses (bit 16); eax = magic,
/// ebx = information. The initrd, if any, is the only module; the command line is preceded by the
/// kernel's name.
Result<BootPlan> plan_multiboot(std::span<const std::byte> kernel,
                                const BootEnvironment& environment);

}  // namespace strata::machine::boot
