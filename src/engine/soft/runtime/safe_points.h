// SafePoints: stopping all vCPUs of a machine for a moment.
//
// Each vCPU is Running (it may execute guest code, hold host pointers into RAM, use its TLB) or
// Safe (parked, outside of run(), or waiting here). An exclusive section asks all to stop, waits
// until every other one is Safe, works, and lets them go. A vCPU that asks becomes Safe first, so
// two that ask at once serve each other in turn; when its call returns, others' sections may have
// run too. State changes and the stop flag form a Dekker pair: both sides store, then load, all
// seq_cst.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace strata::engine::soft {

/// One vCPU's place in SafePoints.
class SafePoint {
  public:
    [[nodiscard]] bool running() const { return running_.load(std::memory_order_seq_cst); }

  private:
    friend class SafePoints;
    std::atomic<bool> running_{false};
};

class SafePoints {
  public:
    /// Calls `stop` for each vCPU that has to come to a safe point soon; it is called without
    /// locks, maybe needlessly.
    explicit SafePoints(std::function<void()> stop) : stop_(std::move(stop)) {}

    /// Before any vCPU runs; the point outlives this.
    void add(SafePoint& point) { points_.push_back(&point); }

    /// Safe to Running: waits while an exclusive section is under way. On the vCPU's thread.
    void enter(SafePoint& point);
    /// Running to Safe. On the vCPU's thread.
    void leave(SafePoint& point);
    /// Where the run loop polls: lets a waiting exclusive section run.
    void poll(SafePoint& point) {
        if (stopping_.load(std::memory_order_relaxed)) {
            leave(point);
            enter(point);
        }
    }
    /// Runs `work` alone. `self`: the calling vCPU's point, Running; null on other threads.
    void run_exclusive(SafePoint* self, const std::function<void()>& work);

  private:
    [[nodiscard]] bool all_safe() const;

    std::function<void()> stop_;
    std::vector<SafePoint*> points_;
    std::mutex exclusive_;  // held for a whole section
    std::mutex mutex_;      // guards waiting on changed_
    std::condition_variable changed_;
    std::atomic<bool> stopping_{false};
};

}  // namespace strata::engine::soft
