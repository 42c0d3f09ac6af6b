// Alarm: a timer of the event loop, kept in step with machine time.
#include "devices/core/alarm.h"

#include <algorithm>
#include <utility>

namespace strata::devices {
namespace {

/// Longer waits are cut, so that no sum of host time overflows; the owner sees that it was early
/// and sets again.
constexpr std::uint64_t kLongestWait = 3'600'000'000'000;

}  // namespace

Alarm::Alarm(io::EventLoop& loop, const io::MachineClock& clock, std::function<void()> callback)
    : loop_(loop), clock_(clock), callback_(std::move(callback)) {}

Alarm::~Alarm() {
    clear();
}

void Alarm::set(std::uint64_t when) {
    const MutexLock lock(mutex_);
    if (timer_ != 0 && when_ == when) {
        return;
    }
    if (timer_ != 0) {
        loop_.cancel(timer_);
    }
    when_ = when;
    const std::uint64_t generation = ++generation_;
    const std::uint64_t now = clock_.now();
    const std::uint64_t target = when > now ? now + std::min(when - now, kLongestWait) : now;
    timer_ = loop_.at(clock_.host_time(target), [this, generation] { fire(generation); });
}

void Alarm::set(std::optional<std::uint64_t> when) {
    if (when) {
        set(*when);
    } else {
        clear();
    }
}

void Alarm::clear() {
    const MutexLock lock(mutex_);
    if (timer_ != 0) {
        loop_.cancel(timer_);
        timer_ = 0;
    }
}

void Alarm::fire(std::uint64_t generation) {
    {
        const MutexLock lock(mutex_);
        if (generation == generation_) {
            timer_ = 0;
        }
    }
    callback_();
}

}  // namespace strata::devices
