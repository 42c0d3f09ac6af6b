// HostStub: a guest instruction as a tiny host function, and the arena these live in.
//
// A stub is the rewritten instruction (host_encoding.h) followed by RET. run_stub() loads all GPRs
// but rsp and the arithmetic flags from a HostFrame, calls it and stores them back. A host
// exception inside the stub ends the call with HostFrame::trap set and registers as before the
// instruction. Vector state is whatever the host registers hold: see interp/execute.cc. The arena
// is one memfd mapped twice (writable, executable), per thread; when full, all its stubs are
// forgotten at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/mmap_region.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "engine/soft/interp/host_encoding.h"
#include "engine/soft/runtime/host_faults.h"

namespace strata::engine::soft {

/// What run_stub() loads and stores. Offsets are known to host_stub_glue.S.
struct HostFrame {
    std::uint64_t gpr[16];       ///< [4] is not used
    std::uint64_t flags;         ///< arithmetic flags | IF | fixed bit
    std::uint64_t trap;          ///< 0, or 1 + exception vector
    std::uint64_t trap_address;  ///< fault address of a #PF or #GP
};

struct HostStub {
    const void* code = nullptr;
    std::uint64_t generation = 0;  ///< of the arena when it was made; 0 never
    std::uint8_t base = kNoHostRegister;
    std::uint8_t rsp_alias = kNoHostRegister;
};

class StubArena {
  public:
    static Result<std::unique_ptr<StubArena>> create();

    /// Makes the stub of `insn`. False: it has no host form.
    [[nodiscard]] bool make(const Instruction& insn, HostStub& stub) noexcept;
    [[nodiscard]] bool valid(const HostStub& stub) const { return stub.generation == generation_; }

  private:
    StubArena(UniqueFd fd, MmapRegion writable, MmapRegion executable)
        : fd_(std::move(fd)), writable_(std::move(writable)), executable_(std::move(executable)) {}

    UniqueFd fd_;
    MmapRegion writable_, executable_;
    HostFaultRange faults_;
    std::size_t used_ = 0;
    std::uint64_t generation_ = 1;
};

/// Runs `code` on `frame`. Host DF, AC and TF stay clear.
void run_stub(HostFrame& frame, const void* code) noexcept;

}  // namespace strata::engine::soft
