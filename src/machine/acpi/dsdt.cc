// DSDT: \_S5, the PCI host bridge with windows, routing and _OSC, legacy devices, processors.
#include "machine/acpi/dsdt.h"

#include <fmt/core.h>

namespace strata::machine::acpi {
namespace {

using namespace aml;  // NOLINT(google-build-using-namespace): the words of its language

constexpr std::uint64_t kPciSlots = 32;

/// _PRT: pin A..D of every slot to its GSI. ACPI 6.4, 6.2.13.
Aml routing_table(std::uint32_t first_gsi) {
    Terms entries;
    for (std::uint64_t slot = 1; slot < kPciSlots; ++slot) {
        for (std::uint64_t pin = 0; pin < 4; ++pin) {
            entries.push_back(package({integer(slot << 16 | 0xffff), integer(pin), integer(0),
                                       integer(first_gsi + (slot + pin) % 4)}));
        }
    }
    return name("_PRT", package(entries));
}

/// _OSC of a PCIe host bridge (PCI Firmware 3.2, 4.5): everything that is asked for is granted;
/// there is nothing here that firmware would keep for itself.
Aml operating_system_capabilities() {
    constexpr std::uint64_t kKnownControls = 0x1f;
    constexpr std::uint64_t kUnknownUuid = 4, kCapabilitiesMasked = 0x10;
    const Aml status = path("CDW1");
    const Aml control = path("CDW3");
    return method(
        "_OSC", 4, true,
        {create_dword_field(arg(3), 0, "CDW1"),
         if_then(equal(arg(0), uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766")),
                 {create_dword_field(arg(3), 8, "CDW3"),
                  if_then(logical_not(equal(control,
                                            bit_and(control, integer(kKnownControls), integer(0)))),
                          {bit_or(status, integer(kCapabilitiesMasked), status)}),
                  bit_and(control, integer(kKnownControls), control)}),
         otherwise({bit_or(status, integer(kUnknownUuid), status)}), give_back(arg(3))});
}

Aml host_bridge(const AcpiConfig& config) {
    constexpr std::uint16_t kConfigPorts = 0xcf8;
    Terms windows = {bus_numbers(0, 0), io_ports(kConfigPorts, 8),
                     io_window(static_cast<std::uint16_t>(config.pci_io.first),
                               static_cast<std::uint16_t>(config.pci_io.last)),
                     memory_window32(static_cast<std::uint32_t>(config.pci_memory32.first),
                                     static_cast<std::uint32_t>(config.pci_memory32.last))};
    if (!config.pci_memory64.empty()) {
        windows.push_back(memory_window64(config.pci_memory64.first, config.pci_memory64.last));
    }
    return device("PCI0", {name("_HID", eisa_id("PNP0A08")), name("_CID", eisa_id("PNP0A03")),
                           name("_SEG", integer(0)), name("_BBN", integer(0)),
                           name("_UID", integer(0)), name("_CRS", resource_template(windows)),
                           routing_table(config.intx_gsi), operating_system_capabilities()});
}

Aml legacy_device(std::string_view object, std::string_view id, const Terms& resources) {
    return device(object, {name("_HID", eisa_id(id)), name("_CRS", resource_template(resources))});
}

/// What belongs to the board itself: ECAM and the ACPI ports. A guest must not put devices there.
Aml motherboard(const AcpiConfig& config) {
    return legacy_device(
        "MBRD", "PNP0C02",
        {fixed_memory(static_cast<std::uint32_t>(config.ecam),
                      static_cast<std::uint32_t>(config.ecam_size), true),
         io_ports(config.pm_event_port, 4), io_ports(config.pm_control_port, 2),
         io_ports(config.pm_timer_port, 4), io_ports(config.gpe0_port, config.gpe0_size)});
}

Terms legacy_devices(const AcpiConfig& config) {
    Terms result = {
        motherboard(config),
        legacy_device("PIC_", "PNP0000",
                      {io_ports(0x20, 2), io_ports(0xa0, 2), io_ports(0x4d0, 2)}),
        legacy_device("TIMR", "PNP0100", {io_ports(0x40, 4), isa_irq(0)}),
        legacy_device("RTC_", "PNP0B00", {io_ports(0x70, 2), isa_irq(8)}),
        legacy_device("KBD_", "PNP0303", {io_ports(0x60, 1), io_ports(0x64, 1), isa_irq(1)}),
        legacy_device("MOU_", "PNP0F13", {isa_irq(12)}),
        device("COM1", {name("_HID", eisa_id("PNP0501")), name("_UID", integer(1)),
                        name("_CRS", resource_template({io_ports(0x3f8, 8), isa_irq(4)}))}),
        legacy_device("HPET", "PNP0103", {fixed_memory(config.hpet, 0x400, false)}),
    };
    if (config.pvpanic_port != 0) {
        result.push_back(
            device("PEVT", {name("_HID", string("QEMU0001")), name("_STA", integer(0xf)),
                            name("_CRS", resource_template({io_ports(config.pvpanic_port, 1)}))}));
    }
    return result;
}

Aml processors(std::size_t count) {
    Terms devices;
    for (std::size_t i = 0; i < count; ++i) {
        devices.push_back(device(fmt::format("C{:03X}", i),
                                 {name("_HID", string("ACPI0007")), name("_UID", integer(i))}));
    }
    return scope("\\_SB_", devices);
}

}  // namespace

Aml dsdt_body(const AcpiConfig& config) {
    Terms system_bus = legacy_devices(config);
    system_bus.push_back(host_bridge(config));
    const Aml sleep = integer(config.sleep_type_s5);
    Aml body;
    for (const Aml& term : {name("\\_S5_", package({sleep, sleep, integer(0), integer(0)})),
                            scope("\\_SB_", system_bus), processors(config.apic_ids.size())}) {
        body.insert(body.end(), term.begin(), term.end());
    }
    return body;
}

}  // namespace strata::machine::acpi
