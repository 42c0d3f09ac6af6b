// PcBoard: construction and wiring.
#include "machine/pc/pc_board.h"

namespace strata::machine::pc {
namespace {

constexpr unsigned kTimerIrq = 0, kKeyboardIrq = 1, kCascade = 2, kRtcIrq = 8, kMouseIrq = 12;
constexpr std::uint32_t kTimerGsi = 2;  // as the MADT's override says

std::array<std::optional<IsaLine>, devices::Pic::kInputs> make_isa_lines(devices::Pic& pic,
                                                                         devices::IoApic& io_apic) {
    std::array<std::optional<IsaLine>, devices::Pic::kInputs> lines;
    for (unsigned irq = 0; irq < lines.size(); ++irq) {
        if (irq != kCascade) {
            lines[irq].emplace(pic.line(irq), io_apic.line(irq == kTimerIrq ? kTimerGsi : irq));
        }
    }
    return lines;
}

}  // namespace

PcBoard::PcBoard(const PcBoardConfig& config, PcIo& io, engine::EngineVm& vm, io::EventLoop& loop,
                 io::MachineClock& clock, devices::SerialBackend& serial, MachineEvents& events)
    : config_(config),
      io_(io),
      events_(events),
      pic_([&vm](bool asserted) { vm.set_external_interrupt(asserted); }),
      io_apic_(vm, [&vm](const std::vector<bus::IrqRoute>& routes) { vm.set_irq_routes(routes); }),
      isa_(make_isa_lines(pic_, io_apic_)),
      hpet_(std::make_unique<devices::Hpet>(
          loop, clock,
          devices::Hpet::Wiring{
              .gsi = [this](std::uint32_t gsi) -> bus::IrqLine& { return io_apic_.line(gsi); },
              .irq0 = &*isa_[kTimerIrq],
              .irq8 = &*isa_[kRtcIrq],
              .msi = &vm})),
      pit_(std::make_unique<devices::Pit>(loop, clock, hpet_->pit_input())),
      rtc_(std::make_unique<devices::Rtc>(loop, clock, hpet_->rtc_input())),
      serial_(std::make_unique<devices::Uart>("serial0", loop, clock,
                                              *isa_[config.type->serial_irq], serial)),
      keyboard_(std::make_unique<devices::I8042>(*isa_[kKeyboardIrq], *isa_[kMouseIrq],
                                                 [&events] { events.reset(); })),
      pm_timer_(clock),
      pm_(loop, pm_timer_, clock, *isa_[config.type->sci_irq], [&events] { events.power_off(); }),
      reset_([&events] { events.reset(); }),
      pvpanic_([&events](devices::GuestCrash crash) { events.guest_crash(crash); }) {
    io_.connect(pic_, io_apic_);
    // Interrupt controllers first: the lines of the others must find them loaded.
    parts_ = {{"pic", &pic_, &pic_},
              {"ioapic", &io_apic_, &io_apic_},
              {"hpet", hpet_.get(), hpet_.get()},
              {"pit", pit_.get(), pit_.get()},
              {"rtc", rtc_.get(), rtc_.get()},
              {"serial0", serial_.get(), serial_.get()},
              {"i8042", keyboard_.get(), keyboard_.get()},
              {"pm", &pm_, &pm_},
              {"reset", &reset_, &reset_}};
}

Result<std::unique_ptr<PcBoard>> PcBoard::create(const PcBoardConfig& config, PcIo& io,
                                                 engine::EngineVm& vm, io::EventLoop& loop,
                                                 io::MachineClock& clock,
                                                 devices::SerialBackend& serial,
                                                 MachineEvents& events) {
    std::unique_ptr<PcBoard> board(new PcBoard(config, io, vm, loop, clock, serial, events));
    STRATA_TRY_VOID(board->claim_ports());
    STRATA_TRY_VOID(board->claim_memory());
    STRATA_TRY_VOID(board->create_pci(vm));
    STRATA_TRY_VOID(board->claim_test_devices());
    return board;
}

Result<> PcBoard::claim_ports() {
    const MachineType& type = *config_.type;
    bus::Bus& ports = io_.ports();
    STRATA_TRY_VOID(pic_.attach(ports));
    STRATA_TRY_VOID(pit_->attach(ports));
    STRATA_TRY_VOID(rtc_->attach(ports));
    STRATA_TRY_VOID(keyboard_->attach(ports));
    STRATA_TRY_VOID(ports.add(type.serial, devices::Uart::kSize, *serial_));
    STRATA_TRY_VOID(ports.add(type.pm_event, devices::PmBlock::kEventSize, pm_.event_block()));
    STRATA_TRY_VOID(
        ports.add(type.pm_control, devices::PmBlock::kControlSize, pm_.control_block()));
    STRATA_TRY_VOID(ports.add(type.pm_timer, devices::PmTimer::kSize, pm_timer_));
    STRATA_TRY_VOID(ports.add(type.gpe0, devices::PmBlock::kGpeSize, pm_.gpe0_block()));
    STRATA_TRY_VOID(ports.add(devices::Pvpanic::kPort, devices::Pvpanic::kSize, pvpanic_));
    return ports.add(devices::PostPort::kPort, devices::PostPort::kSize, post_);
}

Result<> PcBoard::claim_memory() {
    STRATA_TRY_VOID(io_.mmio().add(config_.type->io_apic, devices::IoApic::kSize, io_apic_));
    return io_.mmio().add(config_.type->hpet, devices::Hpet::kSize, *hpet_);
}

Result<> PcBoard::create_pci(engine::EngineVm& vm) {
    const MachineType& type = *config_.type;
    const acpi::AddressRange& high = config_.layout.pci_memory64;
    pci::PciRootConfig config;
    config.ecam_base = type.ecam;
    config.mmio32 = {type.pci_memory32, type.pci_memory32_size};
    config.mmio64 = {high.empty() ? 0 : high.first, high.empty() ? 0 : high.size()};
    config.io = {type.pci_io, type.pci_io_size};
    for (unsigned pin = 0; pin < config.intx.size(); ++pin) {
        config.intx[pin] = &io_apic_.line(type.intx_gsi + pin);
        config.intx_gsi[pin] = static_cast<std::uint8_t>(type.intx_gsi + pin);
    }
    config.reset_control = &reset_;
    pci_ = STRATA_TRY(pci::PciRoot::create(config, io_.mmio(), io_.ports(), vm));
    parts_.push_back({"pci", pci_.get(), pci_.get()});
    return ok();
}

Result<> PcBoard::claim_test_devices() {
    bus::Bus& ports = io_.ports();
    if (config_.debug_exit) {
        debug_exit_ = std::make_unique<devices::DebugExit>(
            [this](std::uint32_t value) { events_.debug_exit(value); });
        STRATA_TRY_VOID(
            ports.add(devices::DebugExit::kPort, devices::DebugExit::kSize, *debug_exit_));
    }
    if (!config_.test_devices) {
        return ok();
    }
    using devices::KvmTestDevice;
    test_device_ = std::make_unique<KvmTestDevice>(
        [this](std::uint32_t gsi) -> bus::IrqLine& { return io_apic_.line(gsi); });
    fw_cfg_ = std::make_unique<FwCfg>(config_.vcpus, config_.memory_bytes);
    STRATA_TRY_VOID(
        ports.add(KvmTestDevice::kLinePort, KvmTestDevice::kLines, test_device_->line_ports()));
    STRATA_TRY_VOID(ports.add(KvmTestDevice::kRegisterPort, KvmTestDevice::kRegisterSize,
                              test_device_->register_port()));
    STRATA_TRY_VOID(io_.mmio().add(KvmTestDevice::kMemoryAddress, KvmTestDevice::kMemorySize,
                                   test_device_->memory()));
    return ports.add(FwCfg::kPort, FwCfg::kSize, *fw_cfg_);
}

Result<> PcBoard::firmware_setup() {
    constexpr std::uint16_t kElcr = 0x4d0, kRtcIndex = 0x70, kRtcData = 0x71;
    constexpr std::uint8_t kRegisterB = 0x0b, kRegisterC = 0x0c, k24Hours = 0x02;
    const auto out = [this](std::uint16_t port, unsigned value) {
        const std::array<std::byte, 1> byte = {static_cast<std::byte>(value)};
        io_.port_write(port, byte);
    };
    const unsigned level = 1U << config_.type->sci_irq;
    out(kElcr, level & 0xff);
    out(kElcr + 1, level >> 8);
    // The RTC runs on through a reset; only its interrupts are switched off.
    out(kRtcIndex, kRegisterB);
    out(kRtcData, k24Hours);
    out(kRtcIndex, kRegisterC);
    std::array<std::byte, 1> acknowledged{};
    io_.port_read(kRtcData, acknowledged);
    return pci_->assign_resources();
}

}  // namespace strata::machine::pc
