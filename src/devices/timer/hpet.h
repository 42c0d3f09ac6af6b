// Hpet: the high precision event timer: a 64-bit counter of 100 MHz and three comparators.
//
// IA-PC HPET specification 1.0a. Each comparator can be one-shot or periodic, 32 or 64 bits wide,
// edge or level, routed to an IOAPIC pin or (FSB) sent as a message. With legacy replacement on,
// comparators 0 and 1 take the places of PIT and RTC: those two drive pit_input() and rtc_input(),
// which this block passes on or holds back. Ticks that were missed are given late (TickDebt).
// Threads: everything from any thread; lines are driven with the lock held.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/mutex.h"
#include "bus/bus_device.h"
#include "bus/interrupt.h"
#include "devices/core/alarm.h"
#include "devices/core/tick_debt.h"
#include "state/snapshottable.h"

namespace strata::devices {

class Hpet final : public bus::BusDevice, public state::Pausable, public state::Snapshottable {
  public:
    static constexpr std::uint64_t kDefaultAddress = 0xfed00000;
    static constexpr std::uint64_t kSize = 0x400;
    static constexpr unsigned kTimers = 3;
    static constexpr std::uint64_t kPeriod = 10;  ///< nanoseconds
    /// The low half of the capabilities register, for the ACPI HPET table.
    static constexpr std::uint32_t kBlockId = 0x8086a001U | ((kTimers - 1) << 8);

    struct Wiring {
        /// The line of an IOAPIC pin for routed interrupts.
        std::function<bus::IrqLine&(std::uint32_t gsi)> gsi;
        std::uint32_t routable = 0x00f00000;  ///< the pins that a comparator may choose
        bus::IrqLine* irq0 = nullptr;  ///< legacy replacement: the timer interrupt (GSI 2, PIC 0)
        bus::IrqLine* irq8 = nullptr;  ///< legacy replacement: the RTC interrupt
        bus::MsiSink* msi = nullptr;
    };
    Hpet(io::EventLoop& loop, const io::MachineClock& clock, Wiring wiring);
    ~Hpet() override;

    /// What PIT and RTC drive instead of irq0, irq8.
    bus::IrqLine& pit_input();
    bus::IrqLine& rtc_input();

    [[nodiscard]] std::string_view label() const override { return "hpet"; }
    /// Accesses of 4 and 8 bytes, aligned (1.0a, 2.3.1); others read as all ones and are dropped.
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    /// Brings the comparators up to the clock; the alarm calls this.
    void advance();

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    class LegacyInput;
    struct Timer {
        std::uint64_t config = 0;  ///< the writable bits
        std::uint64_t comparator = ~std::uint64_t{0};
        std::uint64_t period = 0;
        std::uint64_t fsb = 0;
        std::uint64_t next = 0;  ///< counter value (64-bit, unwrapped) of the next match
        bool armed = false;      ///< `next` is meaningful
        TickDebt debt;
        std::uint64_t owed_at = 0;     ///< machine time of the next owed tick
        std::uint64_t not_before = 0;  ///< machine time: earliest next periodic tick
    };

    [[nodiscard]] std::uint64_t counter() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint64_t machine_time(std::uint64_t counter_value) const
        STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint64_t read_register(std::uint64_t offset) const STRATA_REQUIRES(mutex_);
    void write_register(std::uint64_t offset, std::uint64_t value, std::uint64_t mask)
        STRATA_REQUIRES(mutex_);
    void write_config(std::uint64_t value) STRATA_REQUIRES(mutex_);
    void write_timer(unsigned index, std::uint64_t reg, std::uint64_t value, std::uint64_t mask)
        STRATA_REQUIRES(mutex_);
    void write_timer_config(unsigned index, std::uint64_t value) STRATA_REQUIRES(mutex_);
    void write_comparator(Timer& timer, std::uint64_t value, std::uint64_t mask)
        STRATA_REQUIRES(mutex_);
    void schedule(Timer& timer) STRATA_REQUIRES(mutex_);
    void run_timer(unsigned index, std::uint64_t now) STRATA_REQUIRES(mutex_);
    void fire(unsigned index) STRATA_REQUIRES(mutex_);
    void drive(unsigned index) STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::optional<std::uint64_t> wake_time(const Timer& timer) const
        STRATA_REQUIRES(mutex_);
    void drive_legacy() STRATA_REQUIRES(mutex_);
    [[nodiscard]] bus::IrqLine* line_of(unsigned index) const STRATA_REQUIRES(mutex_);
    void run_all() STRATA_REQUIRES(mutex_);
    void rearm() STRATA_REQUIRES(mutex_);
    void set_legacy_input(unsigned index, bool asserted);

    const io::MachineClock& clock_;
    const Wiring wiring_;
    mutable Mutex mutex_;
    std::array<Timer, kTimers> timers_ STRATA_GUARDED_BY(mutex_);
    std::uint64_t config_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint64_t status_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint64_t stopped_at_ STRATA_GUARDED_BY(mutex_) = 0;  ///< counter while halted
    std::uint64_t offset_ STRATA_GUARDED_BY(mutex_) = 0;  ///< counter - now/kPeriod while enabled
    std::array<bool, 2> legacy_levels_ STRATA_GUARDED_BY(mutex_) = {};
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    std::unique_ptr<LegacyInput> pit_input_;
    std::unique_ptr<LegacyInput> rtc_input_;
    Alarm alarm_;
};

}  // namespace strata::devices
