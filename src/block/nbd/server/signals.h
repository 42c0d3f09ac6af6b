// EndSignals: SIGTERM, SIGINT and SIGHUP as a wish to a loop: whoever serves ends in good order.
#pragma once

#include <functional>
#include <memory>

#include "base/unique_fd.h"
#include "block/loop.h"
#include "block/sync.h"

namespace strata::block::nbd {

class EndSignals {
  public:
    /// Keeps the signals from ending the process. Before any thread is made.
    static Result<UniqueFd> block();
    /// Calls `end` at each signal, until finish().
    static Result<std::unique_ptr<EndSignals>> create(Loop& loop, UniqueFd signals,
                                                      std::function<void()> end);
    /// Awaited before this goes.
    Task<> finish();

  private:
    EndSignals(Loop& loop, UniqueFd signals, std::function<void()> end)
        : signals_(std::move(signals)), end_(std::move(end)), gone_(loop) {}
    Task<> watch();
    const UniqueFd signals_;
    const std::function<void()> end_;
    std::unique_ptr<Loop::Watch> watch_;
    WaitQueue gone_;
    bool finishing_ = false, ended_ = false;
};

}  // namespace strata::block::nbd
