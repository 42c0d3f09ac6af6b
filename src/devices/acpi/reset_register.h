// ResetRegister: port CF9h, the PC's reset control register, which FADT.RESET_REG names (value
// 06h).
//
// ACPI 6.4, 4.8.3.6; bit meanings: Intel ICH9 datasheet, 13.7.5. It lies inside the PCI
// configuration ports CF8h-CFFh, where only 32-bit accesses at CF8h mean CONFIG_ADDRESS; overlay()
// makes one device of both.
#pragma once

#include <cstdint>
#include <functional>

#include "base/mutex.h"
#include "bus/bus_device.h"
#include "state/snapshottable.h"

namespace strata::devices {

class ResetRegister final : public bus::BusDevice,
                            public state::Pausable,
                            public state::Snapshottable {
  public:
    static constexpr std::uint16_t kPort = 0xcf9;
    static constexpr std::uint8_t kResetValue = 0x06;

    /// `reset` is called on the vCPU thread, without a lock, when bit 2 rises.
    explicit ResetRegister(std::function<void()> reset);

    /// The ports CF8h-CFFh: byte accesses at offset 1 come here, all others go to `config_ports`,
    /// which outlives this. Once.
    bus::BusDevice& overlay(bus::BusDevice& config_ports);

    [[nodiscard]] std::string_view label() const override { return "reset-register"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    Result<> pause() override { return ok(); }
    Result<> resume() override { return ok(); }
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    class Overlay final : public bus::BusDevice {
      public:
        Overlay(ResetRegister& reset, bus::BusDevice*& below) : reset_(reset), below_(below) {}
        [[nodiscard]] std::string_view label() const override { return "pci-config-ports"; }
        void read(std::uint64_t offset, std::span<std::byte> data) override;
        void write(std::uint64_t offset, std::span<const std::byte> data) override;

      private:
        ResetRegister& reset_;
        bus::BusDevice*& below_;
    };

    const std::function<void()> reset_;
    mutable Mutex mutex_;
    std::uint8_t value_ STRATA_GUARDED_BY(mutex_) = 0;
    bus::BusDevice* below_ = nullptr;
    Overlay overlay_{*this, below_};
};

}  // namespace strata::devices
