// FirstFailure: what a writer of a stream remembers of a request that failed half done.
//
// A stream cannot be mended: what lies behind a failed write is not where its tables will say. So
// nothing is written after it, its end neither, and every later request and close() answer with it.
// Requests that are refused before anything is written are not remembered.
#pragma once

#include "base/result.h"

namespace strata::block {

class FirstFailure {
  public:
    /// The first failure, or ok().
    [[nodiscard]] const Result<>& so_far() const { return first_; }
    /// Remembers `done` if it is the first failure, and answers it.
    Result<> keep(Result<> done) {
        if (first_.ok() && !done.ok()) {
            first_ = done;
        }
        return done;
    }

  private:
    Result<> first_ = ok();
};

}  // namespace strata::block
