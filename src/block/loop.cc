// Loop: one turn after the other: what is ready, what has completed, else a wait.
#include "block/loop.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <sys/epoll.h>

#include "block/engines/uring/ring.h"
#include "block/worker_pool.h"

namespace strata::block {
namespace {

constexpr std::size_t kReadyPerTurn = 1024;
constexpr unsigned kBusyTurns = 16;
constexpr std::uint32_t kWake = ~0U, kIo = ~0U - 1;

Result<> watch(const UniqueFd& epoll, int fd, std::uint32_t mark) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = mark;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        return Error::from_errno("cannot watch a descriptor for disks");
    }
    return ok();
}

}  // namespace

/// A coroutine that nobody awaits: destroys itself when it ends.
struct Loop::Detached {
    // NOLINTNEXTLINE(readability-identifier-naming): the name that the language asks for
    struct promise_type : detail::PromiseBase {
        Detached get_return_object() { return {}; }
        [[nodiscard]] std::suspend_never initial_suspend() const noexcept { return {}; }
        [[nodiscard]] std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
    };
};

Result<std::unique_ptr<Loop>> Loop::create(Options options) {
    auto io = STRATA_TRY(options.quiet_start ? make_inline_io(options.depth)
                                             : make_async_io(options.engine, options.depth));
    auto wake = STRATA_TRY(io::EventFd::create());
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) {
        return Error::from_errno("cannot make an epoll descriptor for disks");
    }
    STRATA_TRY_VOID(watch(epoll, wake.fd(), kWake));
    STRATA_TRY_VOID(watch(epoll, io->completion_fd(), kIo));
    std::unique_ptr<Loop> loop(new Loop(options, std::move(io), std::move(epoll), std::move(wake)));
    if (options.quiet_start) {
        loop->workers_ = std::make_unique<WorkerPool>(WorkerPool::kNone);
    }
    return loop;
}

Loop::Loop(Options options, std::unique_ptr<AsyncIo> io, UniqueFd epoll, io::EventFd wake)
    : options_(options), io_(std::move(io)), epoll_(std::move(epoll)), wake_(std::move(wake)) {}

Loop::~Loop() {
    STRATA_CHECK(spawned_ == 0, "a loop ends before its tasks");
}

Loop::Detached Loop::detach(Loop& loop, Task<> task, std::function<void(Result<>)> done) {
    Result<> result = co_await task;
    --loop.spawned_;
    if (done) {
        done(std::move(result));
    }
}

void Loop::start(Task<> task, std::function<void(Result<>)> done) {
    ++spawned_;
    (void)detach(*this, std::move(task), std::move(done));
}

void Loop::spawn(Task<> task, std::function<void(Result<>)> done) {
    start(std::move(task), std::move(done));
}

void Loop::post(std::function<void()> work) {
    bool first = false;
    {
        const MutexLock lock(mutex_);
        first = posted_.empty();
        posted_.push_back(std::move(work));
    }
    if (first) {
        wake_.signal();
    }
}

void Loop::stop() {
    {
        const MutexLock lock(mutex_);
        stopping_ = true;
    }
    wake_.signal();
}

void Loop::run_until_stopped() {
    if (options_.quiet_start) {
        RingStock* stock = options_.engine == IoEngine::Auto ? RingStock::adopted() : nullptr;
        auto ring = stock != nullptr ? stock->take() : nullptr;
        if (ring != nullptr && watch(epoll_, ring->completion_fd(), kIo).ok()) {
            io_ = std::move(ring);  // nothing is under way, and the old one's descriptor goes
        } else {
            io_->set_inline(false);
        }
        workers_.reset();  // the next has threads
    }
    for (;;) {
        {
            const MutexLock lock(mutex_);
            if (stopping_) {
                return;
            }
        }
        turn();
    }
}

void Loop::IoAwaiter::await_suspend(std::coroutine_handle<> self) {
    waiter = self;
    // SAFETY: the awaiter lies in a coroutine's frame, which stays until the completion has resumed
    // it.
    command.token = reinterpret_cast<std::uint64_t>(this);
    loop.io_->submit(command);
}

void Loop::to_workers(std::function<void()> work, std::coroutine_handle<> waiter) {
    if (!workers_) {
        workers_ = std::make_unique<WorkerPool>(options_.workers);
    }
    workers_->submit([this, work = std::move(work), waiter] {
        work();
        bool first = false;
        {
            const MutexLock lock(mutex_);
            first = worked_.empty();
            worked_.push_back(waiter);
        }
        if (first) {
            wake_.signal();
        }
    });
}

bool Loop::run_ready() {
    const bool any = !ready_.empty();
    // What becomes ready meanwhile waits for the next turn: I/O goes out and comes in between.
    for (std::size_t left = std::min(ready_.size(), kReadyPerTurn); left != 0; --left) {
        const std::coroutine_handle<> next = ready_.front();
        ready_.pop_front();
        next.resume();
    }
    return any;
}

bool Loop::run_posted() {
    std::vector<std::function<void()>> posted;
    std::vector<std::coroutine_handle<>> worked;
    {
        const MutexLock lock(mutex_);
        posted.swap(posted_);
        worked.swap(worked_);
    }
    for (const std::coroutine_handle<> each : worked) {
        each.resume();
    }
    for (const std::function<void()>& each : posted) {
        each();
    }
    return !posted.empty() || !worked.empty();
}

bool Loop::run_timers() {
    bool any = false;
    while (!timers_.empty() && timers_.begin()->first <= Clock::now()) {
        const std::coroutine_handle<> next = timers_.begin()->second;
        timers_.erase(timers_.begin());
        next.resume();
        any = true;
    }
    return any;
}

bool Loop::take_completions() {
    std::vector<IoCompletion> completions;
    completions.swap(completions_);
    io_->reap(completions);
    for (const IoCompletion& each : completions) {
        // SAFETY: the token is what IoAwaiter::await_suspend made of its own address.
        auto* awaiter = reinterpret_cast<IoAwaiter*>(each.token);
        awaiter->result = each.result;
        awaiter->waiter.resume();
    }
    const bool any = !completions.empty();
    completions.clear();
    completions_.swap(completions);  // keeps its memory
    return any;
}

void Loop::wait_for_something(bool busy) {
    int limit = -1;
    if (busy) {
        limit = 0;
    } else if (!timers_.empty()) {
        const auto left =
            std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now())
                .count();
        limit = static_cast<int>(std::clamp<std::int64_t>(left, 0, 60000));
    }
    std::array<epoll_event, 16> events{};
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), limit);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        if (event.data.u32 == kWake) {
            (void)wake_.drain();
        } else if (event.data.u32 != kIo) {
            fd_event(static_cast<int>(event.data.u32), event.events);
        }
    }
}

// Waits only if there was nothing to do: what ran may have been what the caller waits for.
void Loop::turn() {
    bool busy = run_ready();
    busy |= run_posted();
    busy |= !timers_.empty() && run_timers();
    io_->kick();
    busy |= take_completions();
    if (busy && ++busy_turns_ < kBusyTurns) {
        return;
    }
    busy_turns_ = 0;
    wait_for_something(busy);
}

void Loop::FdAwaiter::await_suspend(std::coroutine_handle<> self) {
    waiter = self;
    FdWaiters& waiters = loop.fds_[fd];
    ((events & EPOLLIN) != 0 ? waiters.in : waiters.out) = this;
    loop.update_fd(fd, waiters);
}

void Loop::update_fd(int fd, const FdWaiters& waiters) {
    epoll_event event{};
    event.events = (waiters.in != nullptr ? waiters.in->events : 0) |
                   (waiters.out != nullptr ? waiters.out->events : 0) | EPOLLONESHOT;
    event.data.u32 = static_cast<std::uint32_t>(fd);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0 ||
        (errno == ENOENT && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0)) {
        return;
    }
    fd_event(fd, EPOLLERR);  // a file, or not open
}

void Loop::fd_event(int fd, std::uint32_t events) {
    if (const auto watched = watches_.find(fd); watched != watches_.end()) {
        const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
        if (broken || (events & (EPOLLIN | EPOLLRDHUP)) != 0) {
            watched->second->wake(watched->second->in_);
        }
        if (broken || (events & EPOLLOUT) != 0) {
            watched->second->wake(watched->second->out_);
        }
        return;
    }
    const auto found = fds_.find(fd);
    if (found == fds_.end()) {
        return;
    }
    FdWaiters& waiters = found->second;
    for (FdAwaiter** each : {&waiters.in, &waiters.out}) {
        if (*each != nullptr &&
            ((events & (EPOLLERR | EPOLLHUP)) != 0 || (events & (*each)->events) != 0)) {
            (*each)->got = events;
            resume_later((*each)->waiter);
            *each = nullptr;
        }
    }
    if (waiters.in != nullptr || waiters.out != nullptr) {
        update_fd(fd, waiters);
    } else {
        (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd,
                          nullptr);  // nobody waits; it may be closed now
        fds_.erase(found);
    }
}

Result<std::unique_ptr<Loop::Watch>> Loop::Watch::create(Loop& loop, int fd) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.u32 = static_cast<std::uint32_t>(fd);
    if (::epoll_ctl(loop.epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        return Error::from_errno("cannot watch a descriptor");
    }
    std::unique_ptr<Watch> watch(new Watch(loop, fd));
    loop.watches_[fd] = watch.get();
    return watch;
}

Loop::Watch::~Watch() {
    STRATA_CHECK(in_.waiting.empty() && out_.waiting.empty(),
                 "a watch goes before who waits for it");
    loop_.watches_.erase(fd_);
    (void)::epoll_ctl(loop_.epoll_.get(), EPOLL_CTL_DEL, fd_,
                      nullptr);  // fails only if it is closed already
}

void Loop::Watch::wake() {
    wake(in_);
    wake(out_);
}

void Loop::Watch::wake(Side& side) {
    side.ready = side.waiting.empty();
    for (const std::coroutine_handle<> each : side.waiting) {
        loop_.resume_later(each);
    }
    side.waiting.clear();
}

void Loop::Alarm::ring() {
    if (!asleep_) {
        rung_ = true;
        return;
    }
    asleep_ = false;
    loop_.resume_later(place_->second);
    loop_.timers_.erase(place_);
}

}  // namespace strata::block
