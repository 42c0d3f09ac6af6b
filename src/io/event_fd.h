// EventFd: a wake-up that works across threads and in poll sets.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::io {

/// An eventfd. signal() from any thread; the fd polls readable until drained.
class EventFd {
  public:
    static Result<EventFd> create();
    [[nodiscard]] int fd() const { return fd_.get(); }
    void signal() const;
    /// Takes all pending signals; false if there was none.
    bool drain() const;

  private:
    explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

}  // namespace strata::io
