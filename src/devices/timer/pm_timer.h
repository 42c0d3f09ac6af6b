// PmTimer: the ACPI power management timer: a free-running 32-bit counter of 3.579545 MHz.
//
// ACPI 6.4, 4.8.2.1 and 4.8.3.3. It has no state: its value is the machine clock's. The carry (the
// top bit changed) shows as TMR_STS in the PM1 event block (acpi/pm_block.h), which asks for it
// here.
#pragma once

#include <cstdint>

#include "bus/bus_device.h"
#include "io/machine_clock.h"

namespace strata::devices {

class PmTimer final : public bus::BusDevice {
  public:
    static constexpr std::uint64_t kFrequency = 3'579'545;  ///< Hz
    static constexpr std::uint64_t kSize = 4;

    explicit PmTimer(const io::MachineClock& clock) : clock_(clock) {}

    [[nodiscard]] std::uint32_t value() const;
    /// How often the top bit has changed since machine time 0.
    [[nodiscard]] std::uint64_t carries() const;
    /// Machine time at which carries() next grows.
    [[nodiscard]] std::uint64_t next_carry() const;

    [[nodiscard]] std::string_view label() const override { return "pm-timer"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    [[nodiscard]] std::uint64_t ticks() const;
    const io::MachineClock& clock_;
};

}  // namespace strata::devices
