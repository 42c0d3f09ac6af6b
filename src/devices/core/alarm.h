// Alarm: one wake-up of a device, in machine time.
//
// A device holds one Alarm, set to its next event; the callback brings the device up to date with
// the clock and sets the alarm anew. A callback may come early (long waits are cut, a pause
// intervened) or once after clear(), so it looks at the clock instead of believing that its moment
// has come. Threads: set() and clear() from any thread; the callback runs on the event loop's
// thread with no lock held. The owner is destroyed on that thread or after the loop stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/mutex.h"
#include "io/event_loop.h"
#include "io/machine_clock.h"

namespace strata::devices {

class Alarm {
  public:
    Alarm(io::EventLoop& loop, const io::MachineClock& clock, std::function<void()> callback);
    ~Alarm();
    Alarm(const Alarm&) = delete;
    Alarm& operator=(const Alarm&) = delete;

    /// Calls back at machine time `when` (nanoseconds) or soon after; replaces an earlier set().
    void set(std::uint64_t when);
    /// set(*when), or clear().
    void set(std::optional<std::uint64_t> when);
    void clear();

  private:
    void fire(std::uint64_t generation);

    io::EventLoop& loop_;
    const io::MachineClock& clock_;
    const std::function<void()> callback_;
    Mutex mutex_;
    io::EventLoop::TimerId timer_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint64_t when_ STRATA_GUARDED_BY(mutex_) = 0;
    /// Tells the timer that timer_ names from a cancelled one that was already under way.
    std::uint64_t generation_ STRATA_GUARDED_BY(mutex_) = 0;
};

}  // namespace strata::devices
