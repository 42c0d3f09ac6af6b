// Pit: the 8254 programmable interval timer with the speaker port 61h.
//
// Intel 8254 datasheet (231164): three counters of 1.193182 MHz, modes 0 to 5, binary and BCD,
// counter latch and read-back. Counter 0's output is a line (IRQ 0); counter 2 is gated by port 61h
// bit 0 and read at bit 5, which is how kernels without another clock calibrate. A counter's value
// is computed from the machine clock; only counter 0 needs a wake-up. A count written to a running
// counter of mode 2 or 3 restarts it at once. Ticks that were missed are given late (TickDebt).
// Threads: everything from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/mutex.h"
#include "bus/bus.h"
#include "bus/interrupt.h"
#include "devices/core/alarm.h"
#include "devices/core/tick_debt.h"
#include "devices/core/windows.h"
#include "state/snapshottable.h"

namespace strata::devices {

class Pit final : public state::Pausable, public state::Snapshottable {
  public:
    static constexpr std::uint64_t kFrequency = 1'193'182;  ///< Hz

    /// `irq` follows counter 0's output. All three outlive this.
    Pit(io::EventLoop& loop, const io::MachineClock& clock, bus::IrqLine& irq);

    /// Claims ports 40h-43h and 61h.
    Result<> attach(bus::Bus& ports);
    /// Brings counter 0's output up to the clock; its alarm calls this.
    void advance();
    /// Ticks that counter 0 has given.
    [[nodiscard]] std::uint64_t ticks() const;

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    /// How a counter register is read and written: control word, RW1 and RW0.
    enum class Access : std::uint8_t { Latch = 0, Low = 1, High = 2, LowHigh = 3 };
    struct Counter {
        std::uint8_t mode = 3;
        Access access = Access::LowHigh;
        bool bcd = false;
        bool gate = true;
        bool loaded = false;  ///< a count was written since the control word
        bool high_next_read = false;
        bool high_next_write = false;
        std::uint8_t low_written = 0;
        std::uint32_t count = 0x10000;   ///< 1 to 10000h (or to 10000 in BCD)
        std::uint32_t reload = 0x10000;  ///< written; becomes count at start or trigger
        std::uint64_t start = 0;         ///< clock tick (of the 8254) at which counting began
        std::uint64_t held = 0;          ///< ticks counted when the gate closed (modes 0 and 4)
        bool running = false;
        std::optional<std::uint16_t> latched;
        std::optional<std::uint8_t> latched_status;
    };

    [[nodiscard]] std::uint64_t tick_now() const;
    [[nodiscard]] static std::uint64_t elapsed(const Counter& counter, std::uint64_t now);
    [[nodiscard]] static std::uint16_t value(const Counter& counter, std::uint64_t now);
    [[nodiscard]] static bool out(const Counter& counter, std::uint64_t now);
    [[nodiscard]] static std::uint8_t status(const Counter& counter, std::uint64_t now);
    void write_control(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void read_back(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_count(unsigned index, std::uint8_t value) STRATA_REQUIRES(mutex_);
    void load_count(unsigned index, std::uint16_t written) STRATA_REQUIRES(mutex_);
    void set_gate(Counter& counter, bool gate) STRATA_REQUIRES(mutex_);
    void restart_counter0() STRATA_REQUIRES(mutex_);
    static void save_counter(state::StateWriter& writer, const Counter& counter);
    static void load_counter(state::StateReader& reader, Counter& counter);
    std::uint8_t read_counter(Counter& counter) STRATA_REQUIRES(mutex_);
    std::uint8_t read_port(std::uint64_t offset);
    void write_port(std::uint64_t offset, std::uint8_t value);
    std::uint8_t read_speaker();
    void write_speaker(std::uint8_t value);
    void run_counter0() STRATA_REQUIRES(mutex_);
    void rearm() STRATA_REQUIRES(mutex_);
    void tick() STRATA_REQUIRES(mutex_);

    const io::MachineClock& clock_;
    bus::IrqLine& irq_;
    mutable Mutex mutex_;
    std::array<Counter, 3> counters_ STRATA_GUARDED_BY(mutex_);
    bool speaker_ STRATA_GUARDED_BY(mutex_) = false;
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    std::uint64_t given_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< periods of counter 0 since its start that were counted
    std::uint64_t ticks_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint64_t not_before_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< machine time: earliest next periodic tick
    std::uint64_t owed_at_ STRATA_GUARDED_BY(mutex_) = 0;  ///< machine time of the next owed tick
    TickDebt debt_ STRATA_GUARDED_BY(mutex_);
    ByteWindow ports_;
    ByteWindow speaker_port_;
    Alarm alarm_;
};

}  // namespace strata::devices
