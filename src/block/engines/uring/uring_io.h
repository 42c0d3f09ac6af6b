// UringIo: the io_uring engine (liburing).
#pragma once

#include <deque>
#include <memory>

#include <liburing.h>

#include "block/async_io.h"
#include "io/event_fd.h"

namespace strata::block {

class UringIo final : public AsyncIo {
  public:
    static Result<std::unique_ptr<AsyncIo>> create(unsigned depth);
    ~UringIo() override;
    void submit(const IoCommand& command) override;
    void kick() override;
    [[nodiscard]] int completion_fd() const override { return done_.fd(); }
    void reap(std::vector<IoCompletion>& out) override;
    void wait() override;

  private:
    UringIo(io::EventFd done, unsigned depth) : done_(std::move(done)), depth_(depth) {}
    void fill();
    void prepare(io_uring_sqe& entry, const IoCommand& command);

    io_uring ring_{};
    bool made_ = false;
    io::EventFd done_;
    const unsigned depth_;
    unsigned in_kernel_ = 0;         ///< submitted or prepared, not reaped
    std::deque<IoCommand> waiting_;  ///< no place in the ring yet
};

}  // namespace strata::block
