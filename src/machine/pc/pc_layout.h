// PcLayout: where RAM and windows of one PC lie, from its machine type and the size of its memory.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "machine/acpi/acpi_config.h"
#include "machine/boot/memory_map.h"
#include "machine/pc/machine_type.h"

namespace strata::machine::pc {

struct PcLayout {
    std::uint64_t low_ram = 0;   ///< bytes from address 0
    std::uint64_t high_ram = 0;  ///< bytes from 4 GiB
    /// Above RAM; empty if the guest's physical addresses do not reach so far.
    acpi::AddressRange pci_memory64;
    boot::MemoryMap memory_map;  ///< as firmware tells it

    /// `physical_bits`: width of the guest's physical addresses (CPUID 8000_0008h). InvalidArgument
    /// if the memory is too small (2 MiB), not a multiple of 4 KiB, or reaches beyond them.
    static Result<PcLayout> plan(const MachineType& type, std::uint64_t memory,
                                 unsigned physical_bits);
};

}  // namespace strata::machine::pc
