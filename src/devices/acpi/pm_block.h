// PmBlock: ACPI's fixed hardware: PM1 event and control registers, power button, sleep, and the
// GPE0 block.
//
// ACPI 6.4, 4.8.3 (PM1) and 4.8.4 (GPE). The machine is always in ACPI mode (SCI_EN reads 1,
// FADT.SMI_CMD is 0). A guest sleeps by writing SLP_TYP and SLP_EN; the only sleep state is S5,
// soft off. The SCI is level-triggered and shared. Threads: everything from any thread; the SCI is
// driven with the lock held, the poweroff function is called without, on the vCPU thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "base/mutex.h"
#include "bus/interrupt.h"
#include "devices/core/alarm.h"
#include "devices/core/windows.h"
#include "devices/timer/pm_timer.h"
#include "state/snapshottable.h"

namespace strata::devices {

class PmBlock final : public state::Pausable, public state::Snapshottable {
  public:
    static constexpr std::uint64_t kEventSize =
        4;  ///< PM1a_EVT_BLK: status and enable, 16 bits each
    static constexpr std::uint64_t kControlSize = 2;  ///< PM1a_CNT_BLK
    static constexpr std::uint64_t kGpeSize =
        16;  ///< GPE0_BLK: 64 status bits, then 64 enable bits
    static constexpr unsigned kGpes = 64;
    static constexpr unsigned kSleepTypeS5 = 5;  ///< SLP_TYP of the DSDT's \_S5

    PmBlock(io::EventLoop& loop, PmTimer& timer, const io::MachineClock& clock, bus::IrqLine& sci,
            std::function<void()> poweroff);

    [[nodiscard]] bus::BusDevice& event_block() { return event_; }
    [[nodiscard]] bus::BusDevice& control_block() { return control_; }
    [[nodiscard]] bus::BusDevice& gpe0_block() { return gpe0_; }

    /// The power button is pressed shortly. Any thread. False if the guest has not switched its
    /// interrupt on: nobody notices.
    bool press_power_button();
    /// General-purpose event `gpe` (0 to 63) happens. Any thread.
    void raise_gpe(unsigned gpe);
    /// Brings TMR_STS up to the clock; the alarm calls this.
    void advance();

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    std::uint8_t read_event(std::uint64_t offset);
    void write_event(std::uint64_t offset, std::uint8_t value);
    std::uint8_t read_control(std::uint64_t offset);
    void write_control(std::uint64_t offset, std::uint8_t value);
    std::uint8_t read_gpe(std::uint64_t offset);
    void write_gpe(std::uint64_t offset, std::uint8_t value);
    void note_carry() STRATA_REQUIRES(mutex_);
    void update() STRATA_REQUIRES(mutex_);

    PmTimer& timer_;
    bus::IrqLine& sci_;
    const std::function<void()> poweroff_;
    mutable Mutex mutex_;
    std::uint16_t status_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint16_t enable_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint16_t control_value_ STRATA_GUARDED_BY(mutex_) = 0;
    std::array<std::uint8_t, kGpes / 8> gpe_status_ STRATA_GUARDED_BY(mutex_) = {};
    std::array<std::uint8_t, kGpes / 8> gpe_enable_ STRATA_GUARDED_BY(mutex_) = {};
    std::uint64_t carries_seen_ STRATA_GUARDED_BY(mutex_) = 0;
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    ByteWindow event_;
    ByteWindow control_;
    ByteWindow gpe0_;
    Alarm alarm_;
};

}  // namespace strata::devices
