// Machine types: the guest-visible facts of each version of the PC board, frozen once released.
//
// A guest that was saved on "pc-1.0" finds the same addresses, ports and interrupts on every later
// Strata. A change that a guest could see makes a new row; rows never change. "pc" means the
// newest.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace strata::machine::pc {

struct MachineType {
    std::string_view name;
    std::string_view description;

    // Memory map.
    std::uint64_t low_ram_limit;  ///< RAM below 4 GiB ends here at the latest
    std::uint64_t pci_memory32;   ///< window for BARs below 4 GiB
    std::uint64_t pci_memory32_size;
    std::uint64_t ecam;  ///< PCIe configuration space of bus 0
    std::uint64_t ecam_size;
    std::uint64_t io_apic;
    std::uint64_t hpet;
    std::uint64_t local_apic;
    std::uint64_t pci_memory64_size;  ///< window above RAM, aligned to its size
    std::uint64_t acpi_tables;
    std::uint64_t acpi_tables_size;
    std::uint64_t smbios_tables;
    std::uint64_t smbios_tables_size;

    // Ports.
    std::uint16_t pci_io;
    std::uint32_t pci_io_size;
    std::uint16_t serial;
    std::uint16_t pm_event;
    std::uint16_t pm_control;
    std::uint16_t pm_timer;
    std::uint16_t gpe0;

    // Interrupts.
    std::uint8_t serial_irq;
    std::uint8_t sci_irq;
    std::uint8_t intx_gsi;  ///< the first of four
};

/// All versions, newest first.
[[nodiscard]] std::span<const MachineType> machine_types();

/// By name; "pc" or "" is the newest. NotFound with the known names otherwise.
Result<const MachineType*> find_machine_type(std::string_view name);

}  // namespace strata::machine::pc
