// ThreadIo: the engine for hosts without io_uring: a few threads that make the blocking system
// calls.
//
// Threads: submit(), kick(), reap() and wait() belong to the owner; the workers share the two
// queues under mutex_.
#pragma once

#include <deque>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "block/async_io.h"
#include "io/event_fd.h"

namespace strata::block {

class ThreadIo final : public AsyncIo {
  public:
    static Result<std::unique_ptr<AsyncIo>> create(unsigned depth, bool inline_at_first = false);
    ~ThreadIo() override;
    void submit(const IoCommand& command) override;
    void kick() override {}
    [[nodiscard]] int completion_fd() const override { return signal_.fd(); }
    void reap(std::vector<IoCompletion>& out) override;
    void wait() override;
    void set_inline(bool on) override;

  private:
    ThreadIo(io::EventFd signal, unsigned threads)
        : signal_(std::move(signal)), threads_(threads) {}
    void start_workers();
    void work();

    io::EventFd signal_;
    const unsigned threads_;
    bool inline_ = false;  ///< the owner's
    Mutex mutex_;
    CondVar work_ready_;
    CondVar work_done_;
    std::deque<IoCommand> waiting_ STRATA_GUARDED_BY(mutex_);
    std::vector<IoCompletion> done_ STRATA_GUARDED_BY(mutex_);
    std::size_t under_way_ STRATA_GUARDED_BY(mutex_) = 0;  ///< waiting or being worked on
    bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
    std::vector<std::jthread> workers_;  ///< last: joined before the rest goes
};

}  // namespace strata::block
