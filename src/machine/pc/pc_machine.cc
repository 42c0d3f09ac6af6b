// PcMachine: construction, power-on and reset.
#include "machine/pc/pc_machine.h"

#include <fmt/core.h>
#include <sys/mman.h>

#include "arch/x86/registers.h"
#include "machine/acpi/tables.h"
#include "machine/pc/vcpu_setup.h"
#include "machine/smbios/smbios.h"

namespace strata::machine::pc {
namespace {

constexpr std::string_view kFirmwareVersion = "1.0";

unsigned physical_bits(const PcConfig& config) {
    constexpr std::uint32_t kAddressSizes = 0x80000008;
    constexpr unsigned kWithoutLeaf = 36;
    if (config.vcpus.empty() || config.vcpus.front().cpuid.entry(kAddressSizes, 0) == nullptr) {
        return kWithoutLeaf;
    }
    return config.vcpus.front().cpuid.find(kAddressSizes, 0).eax & 0xff;
}

}  // namespace

PcMachine::PcMachine(PcConfig config, const MachineType& type, PcLayout layout,
                     std::unique_ptr<memory::GuestRam> ram)
    : config_(std::move(config)), type_(&type), layout_(std::move(layout)), ram_(std::move(ram)) {}

PcMachine::~PcMachine() = default;

Result<std::unique_ptr<PcMachine>> PcMachine::create(PcConfig config, engine::CpuEngine& engine,
                                                     io::EventLoop& loop,
                                                     devices::SerialBackend& serial,
                                                     MachineEvents& events) {
    const MachineType* type = STRATA_TRY(find_machine_type(config.machine_type));
    const std::uint32_t limit = engine.capabilities().max_vcpus;
    if (config.vcpus.empty() || config.vcpus.size() > limit) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("{} vCPUs: the {} engine offers 1 to {}", config.vcpus.size(),
                                 engine.name(), limit));
    }
    PcLayout layout = STRATA_TRY(PcLayout::plan(*type, config.memory_bytes, physical_bits(config)));
    auto ram = STRATA_TRY(memory::GuestRam::create(config.memory_bytes, type->low_ram_limit));
    std::unique_ptr<PcMachine> machine(
        new PcMachine(std::move(config), *type, std::move(layout), std::move(ram)));
    if (machine->config_.boot_files != nullptr) {
        boot::BootEnvironment environment = machine->boot_environment();
        environment.kernel_entry = boot::KernelEntry::Stub;  // only the verdict on the files counts
                                                             // here: no need to unpack
        (void)STRATA_TRY(machine->config_.boot_files->plan(std::move(environment)));
    }
    STRATA_TRY_VOID(machine->build(engine, loop, serial, events));
    return machine;
}

Result<> PcMachine::build(engine::CpuEngine& engine, io::EventLoop& loop,
                          devices::SerialBackend& serial, MachineEvents& events) {
    vm_ = STRATA_TRY(engine.create_vm(*ram_, io_));
    PcBoardConfig board;
    board.type = type_;
    board.layout = layout_;
    board.vcpus = static_cast<std::uint32_t>(config_.vcpus.size());
    board.memory_bytes = config_.memory_bytes;
    board.debug_exit = config_.debug_exit;
    board.test_devices = config_.test_devices;
    board_ = STRATA_TRY(PcBoard::create(board, io_, *vm_, loop, clock_, serial, events));
    for (std::size_t i = 0; i < config_.vcpus.size(); ++i) {
        const PcVcpu& vcpu = config_.vcpus[i];
        vcpus_.push_back(STRATA_TRY(
            vm_->create_vcpu({static_cast<std::uint32_t>(i), vcpu.apic_id, i == 0, vcpu.cpuid})));
    }
    return ok();
}

Result<> PcMachine::add_device(std::unique_ptr<pci::PciDevice> device) {
    if (next_slot_ >= pci::PciRoot::kSlots) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("no free slot for {}: a machine holds {} PCI devices",
                                 device->label(), pci::PciRoot::kSlots - 1));
    }
    return board_->pci().add(next_slot_++, std::move(device));
}

boot::BootEnvironment PcMachine::boot_environment() const {
    boot::BootEnvironment environment;
    environment.memory_map = layout_.memory_map;
    environment.rsdp = type_->acpi_tables;
    environment.command_line = config_.append;
    environment.kernel_entry = config_.kernel_entry;
    return environment;
}

acpi::AcpiConfig PcMachine::acpi_config() const {
    acpi::AcpiConfig acpi;
    for (const PcVcpu& vcpu : config_.vcpus) {
        acpi.apic_ids.push_back(vcpu.apic_id);
    }
    acpi.local_apic = static_cast<std::uint32_t>(type_->local_apic);
    acpi.io_apic = static_cast<std::uint32_t>(type_->io_apic);
    acpi.hpet = static_cast<std::uint32_t>(type_->hpet);
    acpi.hpet_block_id = devices::Hpet::kBlockId;
    acpi.ecam = type_->ecam;
    acpi.ecam_size = type_->ecam_size;
    acpi.pci_io = {type_->pci_io, type_->pci_io + type_->pci_io_size - 1};
    acpi.pci_memory32 = {type_->pci_memory32, type_->pci_memory32 + type_->pci_memory32_size - 1};
    acpi.pci_memory64 = layout_.pci_memory64;
    acpi.intx_gsi = type_->intx_gsi;
    acpi.pm_event_port = type_->pm_event;
    acpi.pm_control_port = type_->pm_control;
    acpi.pm_timer_port = type_->pm_timer;
    acpi.gpe0_port = type_->gpe0;
    acpi.gpe0_size = devices::PmBlock::kGpeSize;
    acpi.reset_port = devices::ResetRegister::kPort;
    acpi.reset_value = devices::ResetRegister::kResetValue;
    acpi.sci_irq = type_->sci_irq;
    acpi.sleep_type_s5 = devices::PmBlock::kSleepTypeS5;
    acpi.century_index = 0x32;
    acpi.pvpanic_port = devices::Pvpanic::kPort;
    return acpi;
}

Result<> PcMachine::power_on() {
    STRATA_TRY_VOID(remember_power_on_state());
    return start();
}

Result<> PcMachine::reset() {
    STRATA_TRY_VOID(pause());
    STRATA_TRY_VOID(clear_ram());
    STRATA_TRY_VOID(restore_power_on_state());
    board_->pci().reset();
    STRATA_TRY_VOID(resume());
    return start();
}

// Devices have no reset of their own: they are loaded with what they were when the machine was
// made. PCI devices, which are added later and hold back ends, do have one; the real-time clock
// keeps its time.
Result<> PcMachine::remember_power_on_state() {
    state::StateWriter writer;
    for (const Part& part : board_->parts()) {
        if (part.name != "pci" && part.name != "rtc") {
            STRATA_TRY_VOID(part.pausable->pause());
            STRATA_TRY_VOID(part.snapshottable->save(writer));
            STRATA_TRY_VOID(part.pausable->resume());
        }
    }
    power_on_state_ = writer.bytes();
    return ok();
}

Result<> PcMachine::restore_power_on_state() {
    state::StateReader reader(power_on_state_);
    for (const Part& part : board_->parts()) {
        if (part.name != "pci" && part.name != "rtc") {
            STRATA_TRY_VOID(part.snapshottable->load(reader));
        }
    }
    return ok();
}

Result<> PcMachine::clear_ram() {
    // Gives the pages back to the host; they read as zeros afterwards.
    if (::madvise(ram_->base(), ram_->size(), MADV_REMOVE) != 0) {
        return Error::from_errno("clearing guest memory");
    }
    for (const memory::RamRange& range : ram_->ranges()) {
        ram_->wrote(range.start, range.size);
    }
    return ok();
}

Result<> PcMachine::start() {
    STRATA_TRY_VOID(board_->firmware_setup());
    const auto tables =
        STRATA_TRY(acpi::build_tables(acpi_config(), type_->acpi_tables, type_->acpi_tables_size));
    STRATA_TRY_VOID(ram_->write(memory::GuestAddress(tables.address), tables.bytes));
    const auto smbios = smbios::build_tables(
        {std::string(type_->name), std::string(kFirmwareVersion), config_.memory_bytes},
        type_->smbios_tables);
    STRATA_TRY_VOID(ram_->write(memory::GuestAddress(type_->smbios_tables), smbios));
    arch::x86::ArchState entry =
        arch::x86::ArchState::power_on(config_.vcpus.front().apic_id, true);
    if (config_.boot_files != nullptr) {
        const boot::BootPlan plan = STRATA_TRY(config_.boot_files->load(boot_environment(), *ram_));
        entry = plan.entry;
        kernel_kind_ = boot::kernel_kind_name(plan.kind);
    }
    for (std::size_t i = 0; i < vcpus_.size(); ++i) {
        arch::x86::ArchState state =
            i == 0 ? entry : arch::x86::ArchState::power_on(config_.vcpus[i].apic_id, false);
        firmware_vcpu_setup(state, i == 0);
        STRATA_TRY_VOID(vcpus_[i]->set_state(state));
    }
    return ok();
}

}  // namespace strata::machine::pc
