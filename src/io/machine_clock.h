// MachineClock: the time that a machine's devices live in: nanoseconds that stop while the machine
// is paused and continue where a saved machine left off. PIT, HPET, RTC, ACPI timer and kvmclock
// all read this one clock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/mutex.h"

namespace strata::io {

class MachineClock {
  public:
    MachineClock();
    /// Nanoseconds of machine time. Any thread; never goes back.
    [[nodiscard]] std::uint64_t now() const;
    /// The host moment at which machine time `when` will be reached if nothing pauses it.
    [[nodiscard]] std::chrono::steady_clock::time_point host_time(std::uint64_t when) const;
    /// Both idempotent. Timers armed by host_time() must be re-armed by their owners after
    /// resume().
    void pause();
    void resume();
    /// Sets the time; only while paused (loading a state).
    void set(std::uint64_t now);

  private:
    /// host nanoseconds - machine nanoseconds while running; the frozen time while paused (see
    /// paused_). Written under mutex_; relaxed reads are enough because pausing stops all vCPUs and
    /// devices first.
    std::atomic<std::int64_t> offset_;
    std::atomic<bool> paused_{false};
    Mutex mutex_;
};

}  // namespace strata::io
