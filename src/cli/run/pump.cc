// Pump: one chunk, two watches.
#include "cli/run/pump.h"

#include <array>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

namespace strata::cli {
namespace {

constexpr std::size_t kChunk = 4096;

// True with a watch; false if epoll cannot watch such a file.
Result<bool> try_watch(io::EventLoop& loop, int fd, std::uint32_t events,
                       std::function<void(std::uint32_t)> callback,
                       std::optional<io::EventLoop::WatchId>& watch) {
    auto id = loop.watch(fd, events, std::move(callback));
    if (id) {
        watch = *id;
        return true;
    }
    if (id.error().system_errno() == EPERM) {
        return false;
    }
    return std::move(id).error();
}

}  // namespace

Pump::Pump(io::EventLoop& loop, UniqueFd source, Hooks hooks, bool lossy)
    : loop_(loop), source_(std::move(source)), hooks_(std::move(hooks)), lossy_(lossy) {}

Pump::~Pump() {
    *alive_ = false;
    hooks_ = {};
    close_source();
    close_sink();
}

Result<> Pump::start() {
    source_pollable_ = STRATA_TRY(try_watch(
        loop_, source_.get(), EPOLLIN, [this](std::uint32_t) { fill(); }, source_watch_));
    schedule();
    return ok();
}

Result<> Pump::set_sink(UniqueFd sink) {
    if (sink_watch_) {
        loop_.remove(*sink_watch_);
        sink_watch_.reset();
    }
    sink_ = std::move(sink);
    if (sink_.valid()) {
        // Without EPOLLOUT too: a hang-up is reported always.
        sink_pollable_ = STRATA_TRY(try_watch(
            loop_, sink_.get(), 0,
            [this](std::uint32_t events) {
                if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
                    close_sink();
                } else {
                    drain();
                }
            },
            sink_watch_));
    }
    drain();
    return ok();
}

void Pump::fill() {
    if (!chunk_.empty() || !source_.valid()) {
        return;
    }
    std::array<char, kChunk> bytes{};
    const ssize_t got = read(source_.get(), bytes.data(), bytes.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        close_source();
        return;
    }
    chunk_.assign(bytes.data(), static_cast<std::size_t>(got));
    if (hooks_.filter) {
        hooks_.filter(chunk_);
    }
    drain();
}

void Pump::drain() {
    if (!sink_.valid()) {
        chunk_.clear();
    }
    bool full = false;
    while (!chunk_.empty() && !full) {
        const ssize_t done = write(sink_.get(), chunk_.data(), chunk_.size());
        if (done > 0) {
            chunk_.erase(0, static_cast<std::size_t>(done));
        } else if (done < 0 && errno == EAGAIN) {
            full = true;
        } else if (done == 0 || errno != EINTR) {
            return close_sink();
        }
    }
    if (full && lossy_) {
        chunk_.clear();
    }
    schedule();
}

// Waits for whichever side the chunk is waiting for.
void Pump::schedule() {
    const bool holding = !chunk_.empty();
    if (source_watch_) {
        (void)loop_.change(*source_watch_,
                           holding ? 0U : static_cast<std::uint32_t>(EPOLLIN));  // the watch exists
    } else if (source_.valid() && !source_pollable_ && !holding) {
        loop_.post([this, alive = alive_] {
            if (*alive) {
                fill();
            }
        });
    }
    if (sink_watch_) {
        (void)loop_.change(
            *sink_watch_, holding ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);  // the watch exists
    }
}

void Pump::close_source() {
    if (source_watch_) {
        loop_.remove(*source_watch_);
        source_watch_.reset();
    }
    if (source_.valid()) {
        source_.reset();
        if (hooks_.on_source_closed) {
            hooks_.on_source_closed();
        }
    }
}

void Pump::close_sink() {
    if (sink_watch_) {
        loop_.remove(*sink_watch_);
        sink_watch_.reset();
    }
    chunk_.clear();
    if (sink_.valid()) {
        sink_.reset();
        if (hooks_.on_sink_closed) {
            hooks_.on_sink_closed();
        }
    }
    schedule();
}

Result<UniqueFd> private_duplicate(int fd, int access) {
    struct stat status {};
    if (fstat(fd, &status) == 0 && (S_ISCHR(status.st_mode) || S_ISFIFO(status.st_mode))) {
        // A new open file description has its own O_NONBLOCK flag.
        UniqueFd own(open(fmt::format("/proc/self/fd/{}", fd).c_str(),
                          access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        if (own.valid()) {
            return own;
        }
    }
    UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy.valid()) {
        return Error::from_errno("duplicating a descriptor");
    }
    return copy;
}

}  // namespace strata::cli
