// NativeRunner: runs TestCases on the host CPU itself, in a child process that maps the Layout.
//
// Every case ends in a signal (INT3 at the latest); the handler's ucontext is the outcome. A child
// that is stuck is killed and replaced. Threads: one.
#pragma once

#include <memory>

#include <sys/types.h>

#include "base/mmap_region.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "differential/case.h"

namespace strata::differential {

class NativeRunner {
  public:
    static Result<std::unique_ptr<NativeRunner>> create();
    ~NativeRunner();

    /// Runs it. `timed_out` in the outcome if it did not end within a second.
    Result<Outcome> run(const TestCase& test);
    /// The child has memory of its own (its stack, its libraries) in the cache line's width from
    /// `address` on: an access there, which ends in #PF by the Layout, works on the host.
    [[nodiscard]] Result<bool> has_own_memory_at(std::uint64_t address) const;
    /// XSAVE image of a fresh process, with all components of XCR0 present: what cases start from.
    static void vector_start(arch::x86::ArchState& state);

  private:
    NativeRunner() = default;
    Result<> start_child();
    void stop_child();

    MmapRegion shared_;
    UniqueFd to_child_, from_child_;
    pid_t child_ = -1;
};

}  // namespace strata::differential
