// Machine types: the table.
#include "machine/pc/machine_type.h"

#include <array>
#include <string>

#include <fmt/core.h>

namespace strata::machine::pc {
namespace {

constexpr std::array<MachineType, 1> kTypes = {{
    {
        .name = "pc-1.0",
        .description = "PCIe PC with ACPI, virtio devices and a serial console",
        .low_ram_limit = 0xc0000000,
        .pci_memory32 = 0xc0000000,
        .pci_memory32_size = 0x20000000,
        .ecam = 0xe0000000,
        .ecam_size = 0x100000,
        .io_apic = 0xfec00000,
        .hpet = 0xfed00000,
        .local_apic = 0xfee00000,
        .pci_memory64_size = 1ULL << 36,
        .acpi_tables = 0xe0000,
        .acpi_tables_size = 0x10000,
        .smbios_tables = 0xf0000,
        .smbios_tables_size = 0x1000,
        .pci_io = 0xc000,
        .pci_io_size = 0x4000,
        .serial = 0x3f8,
        .pm_event = 0x600,
        .pm_control = 0x604,
        .pm_timer = 0x608,
        .gpe0 = 0x620,
        .serial_irq = 4,
        .sci_irq = 9,
        .intx_gsi = 16,
    },
}};

}  // namespace

std::span<const MachineType> machine_types() {
    return kTypes;
}

Result<const MachineType*> find_machine_type(std::string_view name) {
    if (name.empty() || name == "pc") {
        return &kTypes.front();
    }
    std::string known;
    for (const MachineType& type : kTypes) {
        if (type.name == name) {
            return &type;
        }
        known += known.empty() ? "" : ", ";
        known += type.name;
    }
    return Error(ErrorKind::NotFound,
                 fmt::format("unknown machine type '{}'; known are pc, {}", name, known));
}

}  // namespace strata::machine::pc
