// PcBoard: the devices soldered onto the PC: interrupt controllers, timers, clock, serial port,
// keyboard controller, ACPI hardware.
//
// It wires them to buses and lines and knows their order for pausing and saving. PCI devices hang
// on the PciRoot here. IRQ wiring: ISA interrupts lead to the PIC and to the IOAPIC pin of the same
// number, but IRQ 0 to pin 2 (and the HPET may take the places of PIT and RTC); PCI's INTx lead to
// four pins of the IOAPIC of their own.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "devices/acpi/pm_block.h"
#include "devices/acpi/reset_register.h"
#include "devices/input/i8042.h"
#include "devices/irqchip/io_apic.h"
#include "devices/irqchip/pic.h"
#include "devices/misc/debug_ports.h"
#include "devices/misc/kvm_test_device.h"
#include "devices/misc/pvpanic.h"
#include "devices/rtc/rtc.h"
#include "devices/serial/uart.h"
#include "devices/timer/hpet.h"
#include "devices/timer/pit.h"
#include "devices/timer/pm_timer.h"
#include "engine/cpu_engine.h"
#include "io/event_loop.h"
#include "io/machine_clock.h"
#include "machine/machine_events.h"
#include "machine/pc/fw_cfg.h"
#include "machine/pc/isa_lines.h"
#include "machine/pc/machine_type.h"
#include "machine/pc/pc_io.h"
#include "machine/pc/pc_layout.h"
#include "pci/pci_root.h"

namespace strata::machine::pc {

/// A part that has state, in the order of saving.
struct Part {
    std::string_view name;
    state::Pausable* pausable;
    state::Snapshottable* snapshottable;
};

struct PcBoardConfig {
    const MachineType* type = nullptr;
    PcLayout layout;
    std::uint32_t vcpus = 1;
    std::uint64_t memory_bytes = 0;
    bool debug_exit = false;    ///< the isa-debug-exit port
    bool test_devices = false;  ///< what kvm-unit-tests expects: pc-testdev and fw_cfg
};

class PcBoard {
  public:
    /// Builds and wires everything. All arguments outlive the board; `vm` is where interrupts go.
    static Result<std::unique_ptr<PcBoard>> create(const PcBoardConfig& config, PcIo& io,
                                                   engine::EngineVm& vm, io::EventLoop& loop,
                                                   io::MachineClock& clock,
                                                   devices::SerialBackend& serial,
                                                   MachineEvents& events);

    [[nodiscard]] pci::PciRoot& pci() { return *pci_; }
    [[nodiscard]] devices::PmBlock& power_management() { return pm_; }
    /// All parts but PCI's; PCI is a part of its own (pci()).
    [[nodiscard]] const std::vector<Part>& parts() const { return parts_; }

    /// What firmware does to the devices before it starts a kernel: quiets the RTC, tells the PIC
    /// that the SCI is a level, assigns PCI resources. Devices are in their power-on state and not
    /// paused.
    Result<> firmware_setup();

  private:
    PcBoard(const PcBoardConfig& config, PcIo& io, engine::EngineVm& vm, io::EventLoop& loop,
            io::MachineClock& clock, devices::SerialBackend& serial, MachineEvents& events);
    Result<> claim_ports();
    Result<> claim_test_devices();
    Result<> claim_memory();
    Result<> create_pci(engine::EngineVm& vm);

    const PcBoardConfig config_;
    PcIo& io_;
    MachineEvents& events_;
    devices::Pic pic_;
    devices::IoApic io_apic_;
    std::array<std::optional<IsaLine>, devices::Pic::kInputs> isa_;
    std::unique_ptr<devices::Hpet> hpet_;
    std::unique_ptr<devices::Pit> pit_;
    std::unique_ptr<devices::Rtc> rtc_;
    std::unique_ptr<devices::Uart> serial_;
    std::unique_ptr<devices::I8042> keyboard_;
    devices::PmTimer pm_timer_;
    devices::PmBlock pm_;
    devices::ResetRegister reset_;
    devices::Pvpanic pvpanic_;
    devices::PostPort post_;
    std::unique_ptr<devices::DebugExit> debug_exit_;
    std::unique_ptr<devices::KvmTestDevice> test_device_;
    std::unique_ptr<FwCfg> fw_cfg_;
    std::unique_ptr<pci::PciRoot> pci_;
    std::vector<Part> parts_;
};

}  // namespace strata::machine::pc
