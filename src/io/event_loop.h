// EventLoop: one thread's wait for descriptors, timers and posted work (epoll).
//
// run() belongs to one thread; callbacks run on it, one at a time. post(), timers and watches may
// be called from any thread. A callback of a removed watch or cancelled timer does not start after
// remove()/cancel() returned, if those were called on the loop's own thread; from another thread it
// may be under way, so owners destroy on the loop thread or after stop().
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "io/event_fd.h"

namespace strata::io {

class EventLoop {
  public:
    using Clock = std::chrono::steady_clock;
    using WatchId = std::uint64_t;
    using TimerId = std::uint64_t;  ///< 0 is never a timer

    static Result<std::unique_ptr<EventLoop>> create();
    ~EventLoop();

    /// Runs until stop(). Returns at once if stop() was called before.
    void run();
    /// Runs what is ready now, waiting at most `wait`. For tests.
    void run_once(std::chrono::milliseconds wait);
    void stop();

    /// Calls `callback(events)` while `fd` has any of `events` (EPOLLIN, EPOLLOUT …,
    /// level-triggered). `fd` is borrowed and must stay open until remove().
    Result<WatchId> watch(int fd, std::uint32_t events,
                          std::function<void(std::uint32_t)> callback);
    Result<> change(WatchId id, std::uint32_t events);
    void remove(WatchId id);

    /// Calls `callback` once, at or soon after `deadline`.
    TimerId at(Clock::time_point deadline, std::function<void()> callback);
    void cancel(TimerId id);

    /// Runs `work` on the loop's thread, in order.
    void post(std::function<void()> work);

  private:
    struct Watch {
        int fd;
        std::function<void(std::uint32_t)> callback;
    };
    EventLoop(UniqueFd epoll, EventFd wake);
    int wait_milliseconds(int limit);
    void run_timers();
    void run_posted();
    void poll_once(int limit);

    UniqueFd epoll_;
    EventFd wake_;
    Mutex mutex_;
    bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
    std::uint64_t next_id_ STRATA_GUARDED_BY(mutex_) = 1;
    std::map<WatchId, std::shared_ptr<Watch>> watches_ STRATA_GUARDED_BY(mutex_);
    std::map<std::pair<Clock::time_point, TimerId>, std::function<void()>> timers_
        STRATA_GUARDED_BY(mutex_);
    std::map<TimerId, Clock::time_point> deadlines_ STRATA_GUARDED_BY(mutex_);
    std::vector<std::function<void()>> posted_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::io
