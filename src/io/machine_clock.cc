// MachineClock: an offset to the host's monotonic clock.
#include "io/machine_clock.h"

namespace strata::io {
namespace {

std::int64_t host_now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

}  // namespace

MachineClock::MachineClock() : offset_(host_now()) {}

std::uint64_t MachineClock::now() const {
    const std::int64_t offset = offset_.load(std::memory_order_relaxed);
    return static_cast<std::uint64_t>(
        paused_.load(std::memory_order_relaxed) ? offset : host_now() - offset);
}

std::chrono::steady_clock::time_point MachineClock::host_time(std::uint64_t when) const {
    const auto wait = static_cast<std::int64_t>(when) - static_cast<std::int64_t>(now());
    return std::chrono::steady_clock::now() + std::chrono::nanoseconds(wait);
}

void MachineClock::pause() {
    const MutexLock lock(mutex_);
    if (!paused_.load(std::memory_order_relaxed)) {
        offset_.store(host_now() - offset_.load(std::memory_order_relaxed),
                      std::memory_order_relaxed);
        paused_.store(true, std::memory_order_relaxed);
    }
}

void MachineClock::resume() {
    const MutexLock lock(mutex_);
    if (paused_.load(std::memory_order_relaxed)) {
        offset_.store(host_now() - offset_.load(std::memory_order_relaxed),
                      std::memory_order_relaxed);
        paused_.store(false, std::memory_order_relaxed);
    }
}

void MachineClock::set(std::uint64_t now) {
    const MutexLock lock(mutex_);
    if (paused_.load(std::memory_order_relaxed)) {
        offset_.store(static_cast<std::int64_t>(now), std::memory_order_relaxed);
    }
}

}  // namespace strata::io
