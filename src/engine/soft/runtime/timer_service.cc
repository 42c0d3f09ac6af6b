// TimerService: the thread.
#include "engine/soft/runtime/timer_service.h"

#include <algorithm>
#include <chrono>

#include <pthread.h>
#include <sys/prctl.h>

#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {

TimerService::TimerService(std::function<void(std::uint32_t)> expired)
    : expired_(std::move(expired)) {
    for (auto& deadline : deadlines_) {
        deadline.store(kNever, std::memory_order_relaxed);
    }
}

void TimerService::start() {
    std::call_once(started_, [this] { thread_ = std::thread([this] { serve(); }); });
}

TimerService::~TimerService() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void TimerService::arm(std::uint32_t slot, std::uint64_t deadline) {
    std::uint32_t used = used_.load(std::memory_order_seq_cst);
    while (used <= slot &&
           !used_.compare_exchange_weak(used, slot + 1, std::memory_order_seq_cst)) {
    }
    deadlines_[slot].store(deadline, std::memory_order_seq_cst);
    // Pairs with serve(): it announces kNever, looks at the slots, then announces what it found.
    // Either it sees our deadline or we see an announcement past it.
    if (deadline < sleeping_until_.load(std::memory_order_seq_cst)) {
        {
            const std::lock_guard lock(mutex_);
            woken_ = true;
        }
        wake_.notify_one();
    }
}

std::uint64_t TimerService::fire_due() {
    const std::uint64_t now = monotonic_ns();
    std::uint64_t next = kNever;
    const std::uint32_t used = used_.load(std::memory_order_seq_cst);
    for (std::uint32_t slot = 0; slot < used; ++slot) {
        std::uint64_t deadline = deadlines_[slot].load(std::memory_order_seq_cst);
        if (deadline <= now) {
            if (deadlines_[slot].compare_exchange_strong(deadline, kNever,
                                                         std::memory_order_seq_cst)) {
                expired_(slot);
                continue;
            }
        }
        next = std::min(next, deadline);
    }
    return next;
}

void TimerService::serve() {
    (void)pthread_setname_np(pthread_self(), "apic-timers");  // only for debuggers
    (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);          // only makes ticks more punctual
    std::unique_lock lock(mutex_);
    while (!stopping_) {
        woken_ = false;
        sleeping_until_.store(kNever, std::memory_order_seq_cst);
        const std::uint64_t next = fire_due();
        sleeping_until_.store(next, std::memory_order_seq_cst);
        const auto woken = [this] { return woken_ || stopping_; };
        if (next == kNever) {
            wake_.wait(lock, woken);
        } else {
            (void)wake_.wait_until(
                lock, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(next)), woken);
        }
    }
}

}  // namespace strata::engine::soft
