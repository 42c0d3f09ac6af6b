// Rtc: the MC146818 real-time clock with 128 bytes of CMOS memory.
//
// Motorola MC146818A datasheet; the century byte at 32h as ACPI's FADT names it. Time is UTC,
// started from the host's and carried on by the machine clock; a guest that sets it changes an
// offset. Update, alarm and periodic interrupts drive IRQ 8. Flags are computed when somebody
// looks; a wake-up is set only for enabled interrupts, so an idle machine has none. Threads:
// everything from any thread; the line is driven with the lock held.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

#include "base/mutex.h"
#include "bus/bus.h"
#include "bus/interrupt.h"
#include "devices/core/alarm.h"
#include "devices/core/tick_debt.h"
#include "devices/core/windows.h"
#include "state/snapshottable.h"

namespace strata::devices {

class Rtc final : public state::Pausable, public state::Snapshottable {
  public:
    /// Nanoseconds since 1970-01-01T00:00Z.
    using UtcSource = std::function<std::uint64_t()>;
    static constexpr unsigned kSize = 128;

    /// `irq` is IRQ 8 (or Hpet::rtc_input()).
    Rtc(io::EventLoop& loop, const io::MachineClock& clock, bus::IrqLine& irq,
        const UtcSource& utc = host_utc);

    /// Claims ports 70h-71h.
    Result<> attach(bus::Bus& ports);
    /// Sets a CMOS byte (14 to 127) for firmware conventions, e.g. memory size. Before the guest
    /// runs.
    void set_nvram(unsigned index, std::uint8_t value);
    /// Brings flags and line up to the clock; the alarm calls this.
    void advance();
    /// CLOCK_REALTIME.
    static std::uint64_t host_utc();

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    std::uint8_t read_port(std::uint64_t offset);
    void write_port(std::uint64_t offset, std::uint8_t value);
    std::uint8_t read_register(unsigned index) STRATA_REQUIRES(mutex_);
    void write_register(unsigned index, std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_a(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_b(std::uint8_t value) STRATA_REQUIRES(mutex_);
    /// Nanoseconds of RTC time since the epoch.
    [[nodiscard]] std::uint64_t time_now() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] bool held() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] bool updating() const STRATA_REQUIRES(mutex_);
    /// Ticks of the 32.768 kHz divider between periodic events; 0: none.
    [[nodiscard]] std::uint64_t period() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint64_t periods_now() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] bool divider_stopped() const STRATA_REQUIRES(mutex_);
    void hold() STRATA_REQUIRES(mutex_);
    void let_go(bool divider_was_stopped) STRATA_REQUIRES(mutex_);
    void raise(std::uint8_t flags) STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint8_t encode(unsigned value) const STRATA_REQUIRES(mutex_);
    [[nodiscard]] unsigned decode(std::uint8_t value) const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint8_t encode_hour(unsigned hour) const STRATA_REQUIRES(mutex_);
    [[nodiscard]] unsigned decode_hour(std::uint8_t value) const STRATA_REQUIRES(mutex_);
    void fill_time() STRATA_REQUIRES(mutex_);
    void take_time() STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::optional<std::uint64_t> next_alarm(std::uint64_t after_second) const
        STRATA_REQUIRES(mutex_);
    void catch_up() STRATA_REQUIRES(mutex_);
    void catch_up_time() STRATA_REQUIRES(mutex_);
    void catch_up_periodic() STRATA_REQUIRES(mutex_);
    void update_line() STRATA_REQUIRES(mutex_);
    void rearm() STRATA_REQUIRES(mutex_);

    const io::MachineClock& clock_;
    bus::IrqLine& irq_;
    mutable Mutex mutex_;
    std::array<std::uint8_t, kSize> bytes_ STRATA_GUARDED_BY(mutex_) = {};
    std::uint8_t index_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint64_t offset_ STRATA_GUARDED_BY(mutex_) = 0;  ///< RTC time - machine time
    std::uint64_t seen_second_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< updates up to here are in the flags
    std::uint64_t seen_periods_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< periodic events up to here are in the flags
    std::uint64_t owed_at_ STRATA_GUARDED_BY(mutex_) = 0;
    TickDebt debt_ STRATA_GUARDED_BY(mutex_);
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    ByteWindow ports_;
    Alarm alarm_;
};

}  // namespace strata::devices
