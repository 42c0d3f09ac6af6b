// Task: a lazy coroutine of the block graph; `co_await task` yields Result<T>.
//
// A task starts when it is awaited (or spawned on a Loop, loop.h) and belongs to that loop's thread
// from then on. A child runs inside its parent's await_suspend() until it first suspends: what ends
// without suspending costs no trip through the scheduler and no stack, whether the compiler makes
// tail calls or not. One that did suspend resumes its parent by symmetric transfer. Destroying a
// task that has not ended destroys its children first; whoever holds resources says so with
// destructors.
//
// Rules that gcc 12 asks for (its coroutines are young):
// - `co_await` stands in a statement of its own: `auto r = co_await f();`, never in ?:, && or || or
// a braced temporary.
// - No capturing lambda is a coroutine: the captures die with the lambda. Pass parameters to a
// function.
// - Parameters by value are moved into the frame; a reference parameter must outlive the task.
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <utility>

#include "base/result.h"

namespace strata::block {

template <typename T = Unit>
class Task;

namespace detail {

/// What ends a task: hands control to whoever awaits it, if that one is suspended by now.
struct FinalAwaiter {
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    template <typename Promise>
    [[nodiscard]] std::coroutine_handle<> await_suspend(
        std::coroutine_handle<Promise> self) const noexcept {
        const std::coroutine_handle<> next = self.promise().continuation;
        return next ? next : std::noop_coroutine();
    }
    void await_resume() const noexcept {}
};

/// Frames of equal size are many: a list of free ones for each size, a thread's own.
void* allocate_frame(std::size_t bytes);
void free_frame(void* frame, std::size_t bytes) noexcept;

struct PromiseBase {
    std::coroutine_handle<>
        continuation;  ///< who waits; empty while the task runs inside its parent
    static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
    static void operator delete(void* frame, std::size_t bytes) noexcept {
        free_frame(frame, bytes);
    }
    [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
    [[nodiscard]] FinalAwaiter final_suspend() const noexcept { return {}; }
    void unhandled_exception() const noexcept {
        std::terminate();
    }  // no exceptions here: bad_alloc ends the process
};

}  // namespace detail

/// A coroutine that ends with a Result<T>: `co_return value;` or `co_return error;`.
template <typename T>
class [[nodiscard]] Task {
  public:
    // NOLINTNEXTLINE(readability-identifier-naming): the name that the language asks for
    struct promise_type : detail::PromiseBase {
        std::optional<Result<T>> result;
        Task get_return_object() {
            return Task(std::coroutine_handle<promise_type>::from_promise(*this));
        }
        void return_value(Result<T> value) { result.emplace(std::move(value)); }
    };

    Task(Task&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
    Task& operator=(Task&& other) noexcept {
        if (this != &other) {
            reset();
            frame_ = std::exchange(other.frame_, {});
        }
        return *this;
    }
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    ~Task() { reset(); }

    [[nodiscard]] bool done() const { return frame_ && frame_.done(); }

    struct Awaiter {
        std::coroutine_handle<promise_type> frame;
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        [[nodiscard]] bool await_suspend(std::coroutine_handle<> parent) const {
            frame.resume();
            if (frame.done()) {
                return false;
            }
            frame.promise().continuation = parent;
            return true;
        }
        Result<T> await_resume() const { return std::move(*frame.promise().result); }
    };
    /// Runs the task. Once only; the task object must live until it has ended.
    Awaiter operator co_await() const { return Awaiter{frame_}; }

  private:
    explicit Task(std::coroutine_handle<promise_type> frame) : frame_(frame) {}
    void reset() {
        if (frame_) {
            std::exchange(frame_, {}).destroy();
        }
    }
    std::coroutine_handle<promise_type> frame_;
};

}  // namespace strata::block

#define STRATA_CO_JOIN2(a, b) a##b
#define STRATA_CO_JOIN(a, b) STRATA_CO_JOIN2(a, b)

/// `STRATA_CO_TRY(auto size, co_await node->measure());` in a coroutine: the value of a Result
/// (awaited or not), or returns its Error.
#define STRATA_CO_TRY(declaration, expression)                             \
    auto STRATA_CO_JOIN(strata_co_, __LINE__) = (expression);              \
    if (!STRATA_CO_JOIN(strata_co_, __LINE__).ok()) [[unlikely]]           \
        co_return std::move(STRATA_CO_JOIN(strata_co_, __LINE__)).error(); \
    declaration = /* NOLINT(bugprone-macro-parentheses) */                 \
        std::move(STRATA_CO_JOIN(strata_co_, __LINE__)).value()

/// As STRATA_CO_TRY, for a Result whose value nobody wants.
#define STRATA_CO_TRY_VOID(expression)                     \
    do {                                                   \
        auto strata_co_result = (expression);              \
        if (!strata_co_result.ok()) [[unlikely]]           \
            co_return std::move(strata_co_result).error(); \
    } while (false)
