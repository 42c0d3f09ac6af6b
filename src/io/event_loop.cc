// EventLoop: the epoll wait and its three sources of work. Timers are waited for with epoll_pwait2
// (nanoseconds).
#include "io/event_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <sys/epoll.h>

namespace strata::io {

EventLoop::EventLoop(UniqueFd epoll, EventFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
EventLoop::~EventLoop() = default;

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) {
        return Error::from_errno("cannot create an epoll set");
    }
    auto wake = STRATA_TRY(EventFd::create());
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 0;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd(), &event) != 0) {
        return Error::from_errno("cannot watch the wake-up descriptor");
    }
    return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

Result<EventLoop::WatchId> EventLoop::watch(int fd, std::uint32_t events,
                                            std::function<void(std::uint32_t)> callback) {
    const MutexLock lock(mutex_);
    const WatchId id = next_id_++;
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        return Error::from_errno("cannot watch a descriptor");
    }
    watches_.emplace(id, std::make_shared<Watch>(Watch{fd, std::move(callback)}));
    return id;
}

Result<> EventLoop::change(WatchId id, std::uint32_t events) {
    const MutexLock lock(mutex_);
    const auto place = watches_.find(id);
    if (place == watches_.end()) {
        return Error{ErrorKind::NotFound, "no such watch"};
    }
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, place->second->fd, &event) != 0) {
        return Error::from_errno("cannot change a watch");
    }
    return ok();
}

void EventLoop::remove(WatchId id) {
    const MutexLock lock(mutex_);
    const auto place = watches_.find(id);
    if (place == watches_.end()) {
        return;
    }
    // The descriptor may be closed already, which removed it from the set.
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, place->second->fd, nullptr);
    watches_.erase(place);
}

EventLoop::TimerId EventLoop::at(Clock::time_point deadline, std::function<void()> callback) {
    bool first = false;
    TimerId id = 0;
    {
        const MutexLock lock(mutex_);
        id = next_id_++;
        first = timers_.empty() || deadline < timers_.begin()->first.first;
        timers_.emplace(std::pair(deadline, id), std::move(callback));
        deadlines_.emplace(id, deadline);
    }
    if (first) {
        wake_.signal();
    }
    return id;
}

void EventLoop::cancel(TimerId id) {
    const MutexLock lock(mutex_);
    const auto place = deadlines_.find(id);
    if (place != deadlines_.end()) {
        timers_.erase({place->second, id});
        deadlines_.erase(place);
    }
}

void EventLoop::post(std::function<void()> work) {
    {
        const MutexLock lock(mutex_);
        posted_.push_back(std::move(work));
    }
    wake_.signal();
}

void EventLoop::stop() {
    {
        const MutexLock lock(mutex_);
        stopping_ = true;
    }
    wake_.signal();
}

void EventLoop::run() {
    for (;;) {
        {
            const MutexLock lock(mutex_);
            if (stopping_) {
                return;
            }
        }
        poll_once(-1);
    }
}

void EventLoop::run_once(std::chrono::milliseconds wait) {
    poll_once(static_cast<int>(wait.count()));
}

void EventLoop::run_timers() {
    for (;;) {
        std::function<void()> callback;
        {
            const MutexLock lock(mutex_);
            if (timers_.empty() || timers_.begin()->first.first > Clock::now()) {
                return;
            }
            const auto first = timers_.begin();
            callback = std::move(first->second);
            deadlines_.erase(first->first.second);
            timers_.erase(first);
        }
        callback();
    }
}

void EventLoop::run_posted() {
    std::vector<std::function<void()>> work;
    {
        const MutexLock lock(mutex_);
        work.swap(posted_);
    }
    for (auto& piece : work) {
        piece();
    }
}

void EventLoop::poll_once(int limit) {
    timespec wait{};
    bool bounded = limit >= 0;
    {
        const MutexLock lock(mutex_);
        auto nanoseconds = std::chrono::nanoseconds(std::chrono::milliseconds(limit));
        if (!timers_.empty()) {
            const auto left =
                std::max(std::chrono::nanoseconds(0), timers_.begin()->first.first - Clock::now());
            nanoseconds = bounded ? std::min(nanoseconds, left) : left;
            bounded = true;
        }
        if (!posted_.empty() || stopping_) {
            nanoseconds = std::chrono::nanoseconds(0);
            bounded = true;
        }
        wait.tv_sec = nanoseconds.count() / 1'000'000'000;
        wait.tv_nsec = nanoseconds.count() % 1'000'000'000;
    }
    std::array<epoll_event, 32> events{};
    const int count = ::epoll_pwait2(epoll_.get(), events.data(), events.size(),
                                     bounded ? &wait : nullptr, nullptr);
    STRATA_CHECK(count >= 0 || errno == EINTR, "epoll_pwait2 failed");
    for (int index = 0; index < count; ++index) {
        const epoll_event& event = events[static_cast<std::size_t>(index)];
        const std::uint64_t id =
            event.data
                .u64;  // a copy: the kernel's structure is packed, so nothing may refer into it
        if (id == 0) {
            (void)wake_.drain();  // it only wakes; what to do is in the queues
            continue;
        }
        std::shared_ptr<Watch> watch;
        {
            const MutexLock lock(mutex_);
            const auto place = watches_.find(id);
            watch = place == watches_.end() ? nullptr : place->second;
        }
        if (watch) {
            watch->callback(event.events);
        }
    }
    run_timers();
    run_posted();
}

}  // namespace strata::io
