// ThrottleGroup: limits on requests and bytes per second that one disk or several have together.
//
// Leaky buckets, as QEMU's users know them: each limit has a bucket that requests fill and that
// leaks at the limit's average. While it holds more than a burst's worth, requests wait. Without a
// burst that is a tenth of a second's worth; with one, `burst` per second for `burst_seconds`. A
// request is accounted for when it asks, so that those who wait are served in the order of asking;
// a disk asks for one request at a time, so disks of a group take turns.
// Threads: any; disks of a group live on threads of their own.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/result.h"
#include "block/node_tree.h"

namespace strata::block::throttle {

/// Units per second; 0: no limit.
struct Limit {
    std::uint64_t average = 0;
    std::uint64_t burst = 0;  ///< 0: none
    std::uint64_t burst_seconds = 1;
};

enum class Kind : std::uint8_t {
    BytesTotal,
    BytesRead,
    BytesWrite,
    RequestsTotal,
    RequestsRead,
    RequestsWrite
};
inline constexpr std::size_t kKinds = 6;

struct Limits {
    std::array<Limit, kKinds> of{};
    std::uint64_t request_size = 0;  ///< a longer request counts as several; 0: as one

    [[nodiscard]] bool any() const;
    /// InvalidArgument: a total beside its parts, a burst below the average or without one, or a
    /// number out of range.
    [[nodiscard]] Result<> check() const;
    /// Takes bps, bps-read, bps-write, iops, iops-read, iops-write (also as -total), each with -max
    /// and -max-length, and iops-size. `prefix` stands before each name.
    static Result<Limits> take(NodeTree& options, std::string_view prefix = {});
};

class LeakyBucket {
  public:
    using Seconds = std::chrono::duration<double>;
    void leak(const Limit& limit, Seconds time);
    /// Until another request may begin.
    [[nodiscard]] Seconds wait(const Limit& limit) const;
    void add(const Limit& limit, double units);

  private:
    double level_ = 0, burst_level_ = 0;
};

class ThrottleGroup {
  public:
    using Clock = std::chrono::steady_clock;
    explicit ThrottleGroup(const Limits& limits) : limits_(limits) {}
    /// Accounts for a request, and answers when it may begin.
    Clock::time_point admit(bool writing, std::uint64_t bytes, Clock::time_point now)
        STRATA_EXCLUDES(mutex_);
    /// Other limits from now on; nobody waits for the old ones any longer.
    void set_limits(const Limits& limits) STRATA_EXCLUDES(mutex_);
    [[nodiscard]] Limits limits() const STRATA_EXCLUDES(mutex_);
    /// Changes with the limits.
    [[nodiscard]] std::uint64_t generation() const STRATA_EXCLUDES(mutex_);

    /// The group of that name, or nothing. A group goes with the last who holds it.
    static std::shared_ptr<ThrottleGroup> find(const std::string& name);
    /// A new group that find() finds. AlreadyExists: there is one.
    static Result<std::shared_ptr<ThrottleGroup>> make(const std::string& name,
                                                       const Limits& limits);

  private:
    mutable Mutex mutex_;
    Limits limits_ STRATA_GUARDED_BY(mutex_);
    std::array<LeakyBucket, kKinds> buckets_ STRATA_GUARDED_BY(mutex_);
    Clock::time_point leaked_ STRATA_GUARDED_BY(mutex_){};
    std::uint64_t generation_ STRATA_GUARDED_BY(mutex_) = 0;
};

}  // namespace strata::block::throttle
