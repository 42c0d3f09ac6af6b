// WorkerPool: a few threads for work that costs CPU time.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"

namespace strata::block {

class WorkerPool {
  public:
    static constexpr unsigned kNone = ~0U;
    /// `threads`: 0 is one a CPU, at most 8. Fewer if the host gives no more. kNone: all work is
    /// done where it is submitted.
    explicit WorkerPool(unsigned threads);
    ~WorkerPool();
    /// Runs `work` on one of the threads, or here and now if the host lets us have none. Any
    /// thread.
    void submit(std::function<void()> work);

  private:
    void work();
    Mutex mutex_;
    CondVar ready_;
    std::deque<std::function<void()>> waiting_ STRATA_GUARDED_BY(mutex_);
    bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
    std::vector<std::jthread> threads_;  ///< last: joined before the rest goes
};

}  // namespace strata::block
