// Pvpanic: the port by which a guest tells that it panicked.
//
// QEMU's docs/specs/pvpanic: reading answers the events that are supported, writing one reports it.
// ISA port 505h, found by the guest through the ACPI device QEMU0001.
#pragma once

#include <cstdint>
#include <functional>

#include "bus/bus_device.h"

namespace strata::devices {

enum class GuestCrash {
    Panicked,     ///< the guest's kernel panicked and stops
    CrashLoaded,  ///< it panicked and goes on into its crash kernel
};

class Pvpanic final : public bus::BusDevice {
  public:
    static constexpr std::uint16_t kPort = 0x505;
    static constexpr std::uint64_t kSize = 1;

    /// `event` is called on the vCPU thread, as often as the guest says so.
    explicit Pvpanic(std::function<void(GuestCrash)> event) : event_(std::move(event)) {}

    [[nodiscard]] std::string_view label() const override { return "pvpanic"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    const std::function<void(GuestCrash)> event_;
};

}  // namespace strata::devices
