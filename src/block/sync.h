// What coroutines of one loop wait for: a mutex, a condition, a group of tasks. No threads are
// involved.
#pragma once

#include <coroutine>
#include <cstddef>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "block/loop.h"
#include "block/task.h"

namespace strata::block {

/// Coroutines that wait for something, in order of arrival. Wake-ups may be without cause: await in
/// a loop over the condition.
class WaitQueue {
  public:
    explicit WaitQueue(Loop& loop) : loop_(loop) {}
    struct Awaiter {
        WaitQueue& queue;
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) { queue.waiting_.push_back(self); }
        void await_resume() const noexcept {}
    };
    [[nodiscard]] Awaiter wait() { return {*this}; }
    void wake_one() {
        if (!waiting_.empty()) {
            loop_.resume_later(waiting_.front());
            waiting_.pop_front();
        }
    }
    void wake_all() {
        while (!waiting_.empty()) {
            wake_one();
        }
    }
    [[nodiscard]] bool empty() const { return waiting_.empty(); }

  private:
    Loop& loop_;
    std::deque<std::coroutine_handle<>> waiting_;
};

/// A mutex of coroutines: `const auto lock = co_await mutex.lock();`. Fair.
class AsyncMutex {
  public:
    explicit AsyncMutex(Loop& loop) : loop_(loop) {}
    class [[nodiscard]] Guard {
      public:
        explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
        Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
        Guard& operator=(Guard&&) = delete;
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;
        ~Guard() { unlock(); }
        void unlock() {
            if (mutex_ != nullptr) {
                std::exchange(mutex_, nullptr)->unlock();
            }
        }

      private:
        AsyncMutex* mutex_;
    };
    struct Awaiter {
        AsyncMutex& mutex;
        [[nodiscard]] bool await_ready() const noexcept {
            return !std::exchange(mutex.locked_, true);
        }
        void await_suspend(std::coroutine_handle<> self) { mutex.waiting_.push_back(self); }
        Guard await_resume() const noexcept { return Guard(&mutex); }
    };
    [[nodiscard]] Awaiter lock() { return {*this}; }
    [[nodiscard]] bool locked() const { return locked_; }

  private:
    void unlock() {
        if (waiting_.empty()) {
            locked_ = false;
            return;
        }
        loop_.resume_later(waiting_.front());  // it stays locked: this one has it now
        waiting_.pop_front();
    }
    Loop& loop_;
    bool locked_ = false;
    std::deque<std::coroutine_handle<>> waiting_;
};

/// Many at a time, or one alone: `const auto pass = co_await gate.shared();`, `co_await
/// gate.exclusive()`. Who wants to be alone keeps new ones out until it has been.
class Gate {
  public:
    explicit Gate(Loop& loop) : change_(loop) {}
    class [[nodiscard]] Pass {
      public:
        Pass(Gate* gate, bool alone) : gate_(gate), alone_(alone) {}
        Pass(Pass&& other) noexcept
            : gate_(std::exchange(other.gate_, nullptr)), alone_(other.alone_) {}
        Pass& operator=(Pass&&) = delete;
        Pass(const Pass&) = delete;
        Pass& operator=(const Pass&) = delete;
        ~Pass() {
            if (gate_ != nullptr) {
                (alone_ ? gate_->alone_ : gate_->inside_) -= 1;
                gate_->change_.wake_all();
            }
        }

      private:
        Gate* gate_;
        bool alone_;
    };
    Task<Pass> shared() {
        while (alone_ != 0 || wanting_ != 0) {
            co_await change_.wait();
        }
        ++inside_;
        co_return Pass(this, false);
    }
    /// As shared(), if that needs no waiting.
    [[nodiscard]] bool open() const { return alone_ == 0 && wanting_ == 0; }
    [[nodiscard]] Pass enter() {
        ++inside_;
        return {this, false};
    }
    Task<Pass> exclusive() {
        ++wanting_;
        while (alone_ != 0 || inside_ != 0) {
            co_await change_.wait();
        }
        --wanting_;
        ++alone_;
        co_return Pass(this, true);
    }

  private:
    unsigned inside_ = 0, alone_ = 0, wanting_ = 0;
    WaitQueue change_;
};

/// Tasks side by side: `co_await group.add(task)` waits for a free place, `co_await group.finish()`
/// for all of them, and answers the first error. A group must have finished before it goes.
class TaskGroup {
  public:
    TaskGroup(Loop& loop, std::size_t limit) : loop_(loop), limit_(limit), change_(loop) {}
    ~TaskGroup() { STRATA_CHECK(running_ == 0, "a group of tasks goes before they have ended"); }
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    /// Starts `task` when fewer than the limit run. Its error, if any, is finish()'s.
    Task<> add(Task<> task) {
        while (running_ >= limit_) {
            co_await change_.wait();
        }
        start(std::move(task));
        co_return ok();
    }
    /// Starts `task` at once, whatever the limit.
    void start(Task<> task) {
        ++running_;
        loop_.spawn(std::move(task), [this](Result<> result) {
            --running_;
            if (!result.ok() && error_.ok()) {
                error_ = std::move(result);
            }
            change_.wake_all();
        });
    }
    Task<> finish() {
        while (running_ != 0) {
            co_await change_.wait();
        }
        co_return std::exchange(error_, ok());
    }
    [[nodiscard]] bool failed() const { return !error_.ok(); }
    [[nodiscard]] std::size_t running() const { return running_; }

  private:
    Loop& loop_;
    const std::size_t limit_;
    std::size_t running_ = 0;
    Result<> error_ = ok();
    WaitQueue change_;
};

}  // namespace strata::block
