// SignalWatch: the signals that `strata run` answers to, as a readable descriptor.
#pragma once

#include <csignal>
#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::cli {

/// SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGCONT and SIGWINCH of the calling thread, blocked otherwise;
/// the mask of before is restored in the destructor.
class SignalWatch {
  public:
    static Result<std::unique_ptr<SignalWatch>> create();
    SignalWatch(const SignalWatch&) = delete;
    SignalWatch& operator=(const SignalWatch&) = delete;
    ~SignalWatch();
    [[nodiscard]] int fd() const { return fd_.get(); }
    /// The next signal's number, or 0.
    [[nodiscard]] int take() const;

  private:
    SignalWatch() = default;
    UniqueFd fd_;
    sigset_t before_{};
};

}  // namespace strata::cli
