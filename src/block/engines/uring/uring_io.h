// UringIo: the io_uring engine (liburing).
#pragma once

#include <deque>
#include <memory>

#include <liburing.h>

#include "block/async_io.h"
#include "block/engines/uring/ring.h"

namespace strata::block {

class UringIo final : public AsyncIo {
  public:
    static Result<std::unique_ptr<AsyncIo>> create(unsigned depth);
    /// On a ring that is there; it goes to `home` in the end.
    static std::unique_ptr<AsyncIo> on(std::unique_ptr<Ring> ring, std::shared_ptr<RingStock> home);
    ~UringIo() override;
    void submit(const IoCommand& command) override;
    void kick() override;
    [[nodiscard]] int completion_fd() const override { return ring_->done().fd(); }
    void reap(std::vector<IoCompletion>& out) override;
    void wait() override;

  private:
    UringIo(std::unique_ptr<Ring> ring, std::shared_ptr<RingStock> home)
        : ring_(std::move(ring)), home_(std::move(home)) {}
    void fill();

    std::unique_ptr<Ring> ring_;
    std::shared_ptr<RingStock> home_;
    unsigned in_kernel_ = 0;         ///< submitted or prepared, not reaped
    std::deque<IoCommand> waiting_;  ///< no place in the ring yet
};

}  // namespace strata::block
