// AcpiConfig: what the ACPI tables say about a machine: the facts, laid down by the board.
#pragma once

#include <cstdint>
#include <vector>

namespace strata::machine::acpi {

/// A range, both ends included; empty if last < first.
struct AddressRange {
    std::uint64_t first = 1;
    std::uint64_t last = 0;
    [[nodiscard]] bool empty() const { return last < first; }
    [[nodiscard]] std::uint64_t size() const { return last - first + 1; }
};

struct AcpiConfig {
    std::vector<std::uint32_t> apic_ids;  ///< of all vCPUs, by index
    std::uint32_t local_apic = 0;         ///< address
    std::uint32_t io_apic = 0;
    std::uint32_t hpet = 0;
    std::uint32_t hpet_block_id = 0;
    std::uint64_t ecam = 0;  ///< bus 0 only
    std::uint64_t ecam_size = 0;
    AddressRange pci_io;
    AddressRange pci_memory32;
    AddressRange pci_memory64;
    std::uint32_t intx_gsi = 0;  ///< first of the four GSIs; slot s, pin p drives (s + p) % 4

    std::uint16_t pm_event_port = 0;    ///< PM1a_EVT_BLK, 4 ports
    std::uint16_t pm_control_port = 0;  ///< PM1a_CNT_BLK, 2 ports
    std::uint16_t pm_timer_port = 0;    ///< 4 ports
    std::uint16_t gpe0_port = 0;
    std::uint8_t gpe0_size = 0;  ///< status and enable halves together
    std::uint16_t reset_port = 0;
    std::uint8_t reset_value = 0;
    std::uint8_t sci_irq = 0;
    std::uint8_t sleep_type_s5 = 0;
    std::uint8_t century_index = 0;  ///< CMOS byte
    std::uint16_t pvpanic_port = 0;  ///< 0: none
};

}  // namespace strata::machine::acpi
