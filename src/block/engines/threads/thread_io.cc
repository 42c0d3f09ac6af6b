// ThreadIo: the workers.
#include "block/engines/threads/thread_io.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

namespace strata::block {
namespace {

constexpr unsigned kWorkers = 4;

std::int64_t execute(const IoCommand& command) {
    std::int64_t result = 0;
    do {
        const auto offset = static_cast<off_t>(command.offset);
        const auto count = static_cast<int>(command.count);
        switch (command.op) {
            case IoOp::Readv:
                result = ::preadv2(command.fd, command.vectors, count, offset, command.flags);
                break;
            case IoOp::Writev:
                result = ::pwritev2(command.fd, command.vectors, count, offset, command.flags);
                break;
            case IoOp::Datasync:
                result = ::fdatasync(command.fd);
                break;
            case IoOp::Fallocate:
                result = ::fallocate(command.fd, command.flags, offset,
                                     static_cast<off_t>(command.length));
                break;
        }
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

}  // namespace

Result<std::unique_ptr<AsyncIo>> ThreadIo::create(unsigned depth, bool inline_at_first) {
    std::unique_ptr<ThreadIo> made(
        new ThreadIo(STRATA_TRY(io::EventFd::create()), std::clamp(depth, 1U, kWorkers)));
    made->inline_ = inline_at_first;
    if (!inline_at_first) {
        made->start_workers();
        if (made->workers_.empty()) {
            return Error::from_errno("cannot start a disk thread", EAGAIN);
        }
    }
    return std::unique_ptr<AsyncIo>(std::move(made));
}

void ThreadIo::start_workers() {
    try {
        while (workers_.size() < threads_) {
            workers_.emplace_back([this] { work(); });
        }
    } catch (const std::system_error&) {
        inline_ = workers_.empty();  // slower, but it works
    }
}

void ThreadIo::set_inline(bool on) {
    inline_ = on;
    if (!on) {
        start_workers();
    }
}

ThreadIo::~ThreadIo() {
    const MutexLock lock(mutex_);
    stopping_ = true;
    work_ready_.notify_all();
}

void ThreadIo::submit(const IoCommand& command) {
    if (inline_) {
        const std::int64_t result = execute(command);
        {
            const MutexLock lock(mutex_);
            done_.push_back({command.token, result});
        }
        signal_.signal();
        return;
    }
    const MutexLock lock(mutex_);
    waiting_.push_back(command);
    ++under_way_;
    work_ready_.notify_one();
}

void ThreadIo::work() {
    for (;;) {
        IoCommand command;
        {
            const MutexLock lock(mutex_);
            while (waiting_.empty() && !stopping_) {
                work_ready_.wait(mutex_);
            }
            if (waiting_.empty()) {
                return;
            }
            command = waiting_.front();
            waiting_.pop_front();
        }
        const std::int64_t result = execute(command);
        {
            const MutexLock lock(mutex_);
            done_.push_back({command.token, result});
            --under_way_;
            work_done_.notify_all();
        }
        signal_.signal();
    }
}

void ThreadIo::reap(std::vector<IoCompletion>& out) {
    (void)signal_.drain();  // level: the list says what is there
    const MutexLock lock(mutex_);
    out.insert(out.end(), done_.begin(), done_.end());
    done_.clear();
}

void ThreadIo::wait() {
    const MutexLock lock(mutex_);
    while (done_.empty() && under_way_ != 0) {
        work_done_.wait(mutex_);
    }
}

}  // namespace strata::block
