// PcIo: the IoDispatcher of a PC: memory bus, port bus, and the way to its interrupt controllers.
#pragma once

#include "bus/bus.h"
#include "bus/interrupt.h"
#include "engine/io_dispatcher.h"

namespace strata::machine::pc {

class PcIo final : public engine::IoDispatcher {
  public:
    [[nodiscard]] bus::Bus& mmio() { return mmio_; }
    [[nodiscard]] bus::Bus& ports() { return ports_; }
    /// Once, before any vCPU runs; both live as long as vCPUs run.
    void connect(bus::ExtIntSource& pic, bus::EoiListener& io_apic);

    void mmio_read(std::uint64_t address, std::span<std::byte> data) override;
    void mmio_write(std::uint64_t address, std::span<const std::byte> data) override;
    void port_read(std::uint16_t port, std::span<std::byte> data) override;
    void port_write(std::uint16_t port, std::span<const std::byte> data) override;
    std::uint8_t acknowledge_external_interrupt() override;
    void end_of_interrupt(std::uint8_t vector) override;

  private:
    bus::Bus mmio_;
    bus::Bus ports_;
    bus::ExtIntSource* pic_ = nullptr;
    bus::EoiListener* io_apic_ = nullptr;
};

}  // namespace strata::machine::pc
