// Vcpu: one virtual processor of either engine.
//
// run() is called by the vCPU's own thread and returns when the machine must act; port and
// memory-mapped I/O, interrupts, halting and waking happen inside it. Everything else may be called
// only while run() is not executing, but request_exit(), which any thread may call at any time.
#pragma once

#include <cstdint>
#include <string>

#include "arch/x86/arch_state.h"
#include "base/result.h"

namespace strata::engine {

/// Why run() returned.
enum class ExitReason {
    Interrupted,    ///< request_exit() was called
    TripleFault,    ///< shutdown state: the machine resets or stops
    InternalError,  ///< the engine cannot go on; VcpuExit::detail says why
};

struct VcpuExit {
    ExitReason reason = ExitReason::Interrupted;
    std::string detail;
};

/// Counted since creation; relaxed reads from any thread.
struct VcpuCounters {
    std::uint64_t instructions =
        0;  ///< interpreted, or an estimate by translated blocks (0 on KVM)
    std::uint64_t blocks_translated = 0;
    std::uint64_t direct_runs = 0;  ///< entries of user code in stub processes
    std::uint64_t io_exits = 0;
    std::uint64_t interrupts = 0;
    std::uint64_t helped = 0;  ///< KVM: instructions executed by the interpreter on its behalf
};

class Vcpu {
  public:
    virtual ~Vcpu() = default;

    /// Allocates what run() needs of its thread (code memory, signal stack, helper threads).
    /// Optional; once, on the thread that will call run(), before that thread gives up rights by
    /// which it could allocate later.
    virtual void prepare_thread() {}

    /// Runs guest code until something below needs the machine. Blocks while the vCPU is halted or
    /// waits for SIPI.
    virtual VcpuExit run() = 0;
    /// Makes a current or the next run() return Interrupted soon. Any thread; sticky until run()
    /// has returned once.
    virtual void request_exit() = 0;

    virtual Result<> get_state(arch::x86::ArchState& state) = 0;
    virtual Result<> set_state(const arch::x86::ArchState& state) = 0;

    [[nodiscard]] virtual VcpuCounters counters() const = 0;
};

}  // namespace strata::engine
