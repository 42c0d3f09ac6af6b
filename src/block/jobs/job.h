// Job: what a long piece of work on images has in common: progress, a speed limit, a way to stop
// it.
//
// A job is a coroutine that takes a JobControl. It calls advance() for each stretch it has done,
// and between requests `co_await control.pause_point(loop, bytes)`, which sleeps as the speed limit
// asks and answers an error once cancel() was called. Jobs leave images whole at every point: what
// a cancelled or killed one has done so far is valid, and running it again goes on.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

#include "block/loop.h"
#include "block/task.h"

namespace strata::block {

class JobControl {
  public:
    /// `report` is called on the loop's thread with bytes done and in all, at most once for every
    /// hundredth part of a percent.
    explicit JobControl(std::function<void(std::uint64_t done, std::uint64_t total)> report = {})
        : report_(std::move(report)) {}

    /// Bytes a second; 0: no limit. On the loop's thread once the job runs.
    void set_speed(std::uint64_t bytes_per_second);
    /// The job ends with an error soon. Any thread, also a signal handler.
    void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
    [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

    // For jobs.
    /// Somebody is told of progress: a total is worth finding out.
    [[nodiscard]] bool watched() const { return static_cast<bool>(report_); }
    void begin(std::uint64_t total);
    void advance(std::uint64_t bytes);
    /// There are `bytes` still to come at least: what was done may have to be done again.
    void remaining(std::uint64_t bytes) { total_ = std::max(total_, done_ + bytes); }
    /// An error if the job was cancelled.
    [[nodiscard]] Result<> check() const;
    /// `bytes` are moved without waiting: others wait for it.
    void charge(std::uint64_t bytes);
    /// Before `bytes` are moved: waits as the limit asks; an error if the job was cancelled.
    Task<> pause_point(Loop& loop, std::uint64_t bytes);

  private:
    std::function<void(std::uint64_t, std::uint64_t)> report_;
    std::uint64_t total_ = 0, done_ = 0, reported_ = 0;
    std::uint64_t speed_ = 0;
    std::chrono::steady_clock::time_point next_{};  ///< when the next request may start
    std::atomic<bool> cancelled_{false};
};

}  // namespace strata::block
