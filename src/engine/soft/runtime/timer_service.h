// TimerService: one thread that tells running vCPUs that their APIC timer is due.
//
// Each vCPU has a slot with its deadline. Arming is a store, and a wake of the thread only if it
// sleeps past the new deadline. A parked vCPU takes its deadline away (disarm) and sleeps until it
// by itself.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace strata::engine::soft {

class TimerService {
  public:
    static constexpr std::uint32_t kMaxSlots = 1024;
    static constexpr std::uint64_t kNever = ~0ULL;

    /// `expired(slot)` is called on the service's thread.
    explicit TimerService(std::function<void(std::uint32_t)> expired);
    ~TimerService();
    TimerService(const TimerService&) = delete;
    TimerService& operator=(const TimerService&) = delete;

    /// Starts the thread, if it does not run yet. What is armed before is not forgotten. Any
    /// thread.
    void start();

    /// Calls expired(slot) at `deadline` (monotonic_ns()) once; replaces the slot's deadline
    /// before. Any thread.
    void arm(std::uint32_t slot, std::uint64_t deadline);
    /// No call for what was armed, but one may be under way.
    void disarm(std::uint32_t slot) { deadlines_[slot].store(kNever, std::memory_order_seq_cst); }

  private:
    void serve();
    /// Fires what is due; the earliest of the rest.
    std::uint64_t fire_due();

    std::function<void(std::uint32_t)> expired_;
    std::array<std::atomic<std::uint64_t>, kMaxSlots> deadlines_;
    std::atomic<std::uint32_t> used_{0};  // slots below this were armed once
    std::atomic<std::uint64_t> sleeping_until_{kNever};
    std::mutex mutex_;
    std::condition_variable wake_;
    bool stopping_ = false;
    bool woken_ = false;
    std::once_flag started_;
    std::thread thread_;
};

}  // namespace strata::engine::soft
