// WorkerPool: a queue and who empties it.
#include "block/worker_pool.h"

#include <algorithm>
#include <system_error>

#include "base/log.h"

namespace strata::block {

constexpr unsigned kLeastThreads = 4, kMaxThreads = 8;

WorkerPool::WorkerPool(unsigned threads) {
    const unsigned wanted = threads == kNone ? 0
                            : threads != 0   ? threads
                                             : std::clamp(std::thread::hardware_concurrency(),
                                                          kLeastThreads, kMaxThreads);
    try {
        for (unsigned i = 0; i < wanted; ++i) {
            threads_.emplace_back([this] { work(); });
        }
    } catch (const std::system_error& error) {
        log::warn("cannot start a disk worker thread reason='{}' have={}", error.what(),
                  threads_.size());
    }
}

WorkerPool::~WorkerPool() {
    const MutexLock lock(mutex_);
    stopping_ = true;
    ready_.notify_all();
}

void WorkerPool::submit(std::function<void()> work) {
    if (threads_.empty()) {
        work();
        return;
    }
    const MutexLock lock(mutex_);
    waiting_.push_back(std::move(work));
    ready_.notify_one();
}

void WorkerPool::work() {
    for (;;) {
        std::function<void()> work;
        {
            const MutexLock lock(mutex_);
            while (waiting_.empty() && !stopping_) {
                ready_.wait(mutex_);
            }
            if (waiting_.empty()) {
                return;
            }
            work = std::move(waiting_.front());
            waiting_.pop_front();
        }
        work();
    }
}

}  // namespace strata::block
