// PcMachine: one PC: RAM, vCPUs of either engine, the board, and its life: power-on, reset, pause,
// save and load.
//
// Order of a life: create(), add_device()…, power_on(), then the owner runs each vCPU on a thread
// of its own; reset(), pause(), resume(), save() and load() are called while no vCPU runs. Devices
// live on the owner's event loop, which keeps running.
//
// reset() is a cold start: RAM becomes zeros, devices their power-on state, the kernel is read
// again and started; it may be repeated as often as a guest likes. The real-time clock alone runs
// on.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/cpuid.h"
#include "engine/cpu_engine.h"
#include "io/event_loop.h"
#include "io/machine_clock.h"
#include "machine/boot/loader.h"
#include "machine/machine_events.h"
#include "machine/pc/machine_type.h"
#include "machine/pc/pc_board.h"
#include "machine/pc/pc_io.h"
#include "memory/guest_ram.h"

namespace strata::machine::pc {

/// One vCPU as the guest sees it.
struct PcVcpu {
    std::uint32_t apic_id = 0;
    arch::x86::CpuidTable cpuid;
};

struct PcConfig {
    std::string machine_type = "pc";
    std::uint64_t memory_bytes = 1ULL << 30;
    std::vector<PcVcpu> vcpus;  ///< the first one boots; its APIC id is 0
    std::string append;         ///< kernel command line
    boot::KernelEntry kernel_entry = boot::KernelEntry::Auto;
    std::unique_ptr<boot::BootFiles>
        boot_files;  ///< null only if the owner sets all vCPU states itself (tests)
    bool debug_exit = false;
    bool test_devices = false;
};

class PcMachine final : public state::Pausable, public state::Snapshottable {
  public:
    /// Builds a machine that is off. `engine`, `loop`, `serial` and `events` outlive it. Errors:
    /// bad sizes, unknown machine type, a kernel that cannot be booted (checked here already), no
    /// memory.
    static Result<std::unique_ptr<PcMachine>> create(PcConfig config, engine::CpuEngine& engine,
                                                     io::EventLoop& loop,
                                                     devices::SerialBackend& serial,
                                                     MachineEvents& events);
    ~PcMachine() override;

    /// Puts a function into the next free slot of bus 0 (1 to 31). Before power_on().
    Result<> add_device(std::unique_ptr<pci::PciDevice> device);

    /// Fills RAM with tables and kernel and sets all vCPUs. Once.
    Result<> power_on();
    /// As power_on(), of a machine that ran.
    Result<> reset();

    Result<> pause() override;
    Result<> resume() override;
    /// Everything but the contents of RAM.
    Result<> save(state::StateWriter& writer) const override;
    /// Into a machine made of the same config and paused, instead of power_on().
    Result<> load(state::StateReader& reader) override;

    /// Asks the guest to power off; false if it does not listen. Any thread.
    bool press_power_button() { return board_->power_management().press_power_button(); }

    [[nodiscard]] const std::vector<std::unique_ptr<engine::Vcpu>>& vcpus() const { return vcpus_; }
    [[nodiscard]] engine::EngineVm& vm() { return *vm_; }
    [[nodiscard]] memory::GuestRam& ram() { return *ram_; }
    [[nodiscard]] pci::PciRoot& pci() { return board_->pci(); }
    [[nodiscard]] io::MachineClock& clock() { return clock_; }
    [[nodiscard]] PcIo& io() { return io_; }
    [[nodiscard]] const MachineType& type() const { return *type_; }
    [[nodiscard]] const PcLayout& layout() const { return layout_; }
    /// The kind of kernel that was started last.
    [[nodiscard]] std::string_view kernel_kind() const { return kernel_kind_; }

  private:
    PcMachine(PcConfig config, const MachineType& type, PcLayout layout,
              std::unique_ptr<memory::GuestRam> ram);
    Result<> build(engine::CpuEngine& engine, io::EventLoop& loop, devices::SerialBackend& serial,
                   MachineEvents& events);
    [[nodiscard]] boot::BootEnvironment boot_environment() const;
    [[nodiscard]] acpi::AcpiConfig acpi_config() const;
    Result<> remember_power_on_state();
    Result<> restore_power_on_state();
    Result<> clear_ram();
    /// Firmware's part: tables, kernel, vCPU states.
    Result<> start();

    PcConfig config_;
    const MachineType* type_;
    const PcLayout layout_;
    io::MachineClock clock_;
    std::unique_ptr<memory::GuestRam> ram_;
    PcIo io_;
    std::unique_ptr<engine::EngineVm> vm_;
    std::unique_ptr<PcBoard> board_;
    std::vector<std::unique_ptr<engine::Vcpu>> vcpus_;
    std::vector<std::byte> power_on_state_;
    unsigned next_slot_ = 1;
    std::string_view kernel_kind_;
};

}  // namespace strata::machine::pc
