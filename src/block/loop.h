// Loop: the one thread of a block graph: runs its coroutines, its I/O and its timers.
//
// A graph of nodes (node.h) belongs to one loop, and everything in it runs on the loop's thread: a
// machine's disk has an I/O thread of its own, an offline tool uses its main thread through run().
// So nothing in a graph needs a lock; a coroutine is interrupted only where it awaits. I/O goes to
// io_uring where the host allows it, else to threads (async_io.h); work that costs CPU time
// (compression, ciphers, checksums) goes to a few worker threads with offload(). Wake-ups never run
// inside the call that causes them: they are queued, so whoever unlocks or signals goes on
// undisturbed. Threads: post() and stop() may be called from any thread, all else from the loop's.
#pragma once

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "block/async_io.h"
#include "block/task.h"
#include "io/event_fd.h"

namespace strata::block {

class WorkerPool;

class Loop {
  public:
    using Clock = std::chrono::steady_clock;
    struct Options {
        IoEngine engine = IoEngine::Auto;
        unsigned depth = 256;      ///< system calls under way at a time; more wait inside
        bool quiet_start = false;  ///< no io_uring and no thread before run_until_stopped(): for
                                   ///< programs that lock themselves up in between
        unsigned workers =
            0;  ///< threads for offload(), made at first use; 0: one a CPU, at most 8
    };
    static Result<std::unique_ptr<Loop>> create(Options options);
    static Result<std::unique_ptr<Loop>> create() { return create(Options{}); }
    /// Every spawned task must have ended.
    ~Loop();

    /// Offline tools: runs `task` to its end, and whatever else is ready meanwhile.
    template <typename T>
    Result<T> run(Task<T> task) {
        std::optional<Result<T>> result;
        start(capture(std::move(task), result), {});
        while (!result.has_value()) {
            turn();
        }
        return std::move(*result);
    }
    /// I/O threads: runs until stop().
    void run_until_stopped();
    void stop();
    /// Runs `work` on the loop's thread, in order. Any thread.
    void post(std::function<void()> work);
    /// Starts `task` now; `done` gets its result. Whatever the task uses must outlive it.
    void spawn(Task<> task, std::function<void(Result<>)> done = {});
    /// Tasks spawned and not ended.
    [[nodiscard]] std::size_t spawned() const { return spawned_; }

    /// Resumes `waiter` soon, from the loop itself.
    void resume_later(std::coroutine_handle<> waiter) { ready_.push_back(waiter); }

    struct IoAwaiter {
        Loop& loop;
        IoCommand command;
        std::int64_t result = 0;
        std::coroutine_handle<> waiter{};
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self);
        [[nodiscard]] std::int64_t await_resume() const noexcept { return result; }
    };
    /// `std::int64_t n = co_await loop.io(command);`: bytes or a negative errno. The token is the
    /// loop's.
    [[nodiscard]] IoAwaiter io(const IoCommand& command) { return {*this, command}; }

    template <typename Work>
    struct WorkAwaiter {
        using Value = std::invoke_result_t<Work>;
        Loop& loop;
        Work work;
        std::optional<Value> value{};
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) {
            loop.to_workers([this] { value.emplace(work()); }, self);
        }
        [[nodiscard]] Value await_resume() { return std::move(*value); }
    };
    /// `auto value = co_await loop.offload(work);`: runs `work()` on a worker thread. It touches
    /// nothing of the graph.
    template <typename Work>
    [[nodiscard]] WorkAwaiter<Work> offload(Work work) {
        return {*this, std::move(work)};
    }

    struct SleepAwaiter {
        Loop& loop;
        Clock::time_point until;
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) { loop.timers_.emplace(until, self); }
        void await_resume() const noexcept {}
    };
    [[nodiscard]] SleepAwaiter sleep(std::chrono::nanoseconds time) {
        return {*this, Clock::now() + time};
    }
    [[nodiscard]] SleepAwaiter sleep_until(Clock::time_point when) { return {*this, when}; }

    struct YieldAwaiter {
        Loop& loop;
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) { loop.resume_later(self); }
        void await_resume() const noexcept {}
    };
    /// Lets others run; long loops that await nothing else call it now and then.
    [[nodiscard]] YieldAwaiter yield() { return {*this}; }

    struct FdAwaiter {
        Loop& loop;
        int fd = -1;
        std::uint32_t events = 0;
        std::uint32_t got = 0;
        std::coroutine_handle<> waiter{};
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self);
        [[nodiscard]] std::uint32_t await_resume() const noexcept { return got; }
    };
    /// Waits until `fd` (a socket, pipe or event descriptor) has any of `events` (EPOLLIN,
    /// EPOLLOUT); answers what it has, or EPOLLERR. One waiter for each direction at a time.
    [[nodiscard]] FdAwaiter wait_fd(int fd, std::uint32_t events) { return {*this, fd, events}; }

    class Watch;
    class Alarm;

  private:
    struct FdWaiters {
        FdAwaiter* in = nullptr;
        FdAwaiter* out = nullptr;
    };
    struct Detached;
    Loop(Options options, std::unique_ptr<AsyncIo> io, UniqueFd epoll, io::EventFd wake);
    template <typename T>
    static Task<> capture(Task<T> task, std::optional<Result<T>>& result) {
        result.emplace(co_await task);
        co_return ok();
    }
    static Detached detach(Loop& loop, Task<> task, std::function<void(Result<>)> done);
    void start(Task<> task, std::function<void(Result<>)> done);
    void to_workers(std::function<void()> work, std::coroutine_handle<> waiter);
    void turn();
    // Each: whether there was anything.
    bool run_ready();
    bool run_posted();
    bool run_timers();
    bool take_completions();
    void wait_for_something(bool busy);
    void update_fd(int fd, const FdWaiters& waiters);
    void fd_event(int fd, std::uint32_t events);

    const Options options_;
    std::unique_ptr<AsyncIo> io_;
    UniqueFd epoll_;
    io::EventFd wake_;
    std::deque<std::coroutine_handle<>> ready_;
    std::multimap<Clock::time_point, std::coroutine_handle<>> timers_;
    std::map<int, FdWaiters> fds_;
    std::map<int, Watch*> watches_;
    std::vector<IoCompletion> completions_;
    std::size_t spawned_ = 0;
    unsigned busy_turns_ = 0;  ///< since descriptors were looked at
    Mutex mutex_;
    std::vector<std::function<void()>> posted_ STRATA_GUARDED_BY(mutex_);
    std::vector<std::coroutine_handle<>> worked_ STRATA_GUARDED_BY(mutex_);  ///< offloaded, done
    bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
    std::unique_ptr<WorkerPool> workers_;  ///< last: joined before the rest goes
};

/// A descriptor (a socket) that is watched for as long as this lives, which must not be longer than
/// it is open: no system call for each wait, unlike wait_fd(). It tells of changes: try first, wait
/// after EAGAIN, try again; wake-ups may be without cause.
class Loop::Watch {
  public:
    static Result<std::unique_ptr<Watch>> create(Loop& loop, int fd);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    struct Side {
        bool ready = false;
        std::vector<std::coroutine_handle<>> waiting{};
    };
    struct Awaiter {
        Side& side;
        [[nodiscard]] bool await_ready() const noexcept { return std::exchange(side.ready, false); }
        void await_suspend(std::coroutine_handle<> self) { side.waiting.push_back(self); }
        void await_resume() const noexcept {}
    };
    [[nodiscard]] Awaiter readable() { return {in_}; }
    [[nodiscard]] Awaiter writable() { return {out_}; }
    /// Wakes whoever waits.
    void wake();

  private:
    friend class Loop;
    Watch(Loop& loop, int fd) : loop_(loop), fd_(fd) {}
    void wake(Side& side);
    Loop& loop_;
    const int fd_;
    Side in_, out_;
};

/// A sleep that can be cut short: `co_await alarm.until(when)`, by one coroutine at a time.
class Loop::Alarm {
  public:
    explicit Alarm(Loop& loop) : loop_(loop) {}
    ~Alarm() { STRATA_CHECK(!asleep_, "an alarm goes before who waits for it"); }
    Alarm(const Alarm&) = delete;
    Alarm& operator=(const Alarm&) = delete;

    struct Awaiter {
        Alarm& alarm;
        Clock::time_point when;
        [[nodiscard]] bool await_ready() const noexcept {
            return std::exchange(alarm.rung_, false);
        }
        void await_suspend(std::coroutine_handle<> self) {
            alarm.place_ = alarm.loop_.timers_.emplace(when, self);
            alarm.asleep_ = true;
        }
        void await_resume() const noexcept { alarm.asleep_ = false; }
    };
    [[nodiscard]] Awaiter until(Clock::time_point when) { return {*this, when}; }
    /// Ends the sleep, or the next one if nobody sleeps.
    void ring();

  private:
    Loop& loop_;
    std::multimap<Clock::time_point, std::coroutine_handle<>>::iterator place_{};
    bool asleep_ = false, rung_ = false;
};

}  // namespace strata::block
