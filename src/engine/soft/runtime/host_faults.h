// Host faults: guest instructions that run natively raise host signals; here they find their way
// back.
//
// Code ranges (stubs of the interpreter, blocks of the translator) register with a handler.
// SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP whose PC lies in a range call that handler in signal
// context; it notes what happened and rewrites the PC. Everything else goes to the action that was
// installed before. Handlers run on an alternate stack, so the interrupted stack pointer may hold
// anything. While guest vector values are live the kernel saves and restores them around the
// handler. Threads: registration from any thread; each thread that runs such code calls
// prepare_host_fault_thread() first.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace strata::engine::soft {

/// One fault. `pc` and `sp` are written back to the interrupted context if the handler answers
/// true.
struct HostFault {
    int signal = 0;
    std::uint32_t trap =
        0;  ///< the exception vector: 0 #DE, 6 #UD, 13 #GP, 14 #PF, 16 #MF, 17 #AC, 19 #XM …
    std::uint64_t error = 0;    ///< its error code
    std::uint64_t address = 0;  ///< CR2 of a #PF
    std::uint64_t pc = 0, sp = 0;
    std::uint64_t* registers =
        nullptr;  ///< gregs of the context (REG_RAX … of <sys/ucontext.h>), may be changed
};

/// Async-signal-safe; false: not mine after all.
using HostFaultHandler = bool (*)(void* argument, HostFault& fault) noexcept;

/// A registered range; unregisters when destroyed. No thread may execute in it then.
class HostFaultRange {
  public:
    HostFaultRange() = default;
    HostFaultRange(const HostFaultRange&) = delete;
    HostFaultRange& operator=(const HostFaultRange&) = delete;
    ~HostFaultRange();

    /// Installs the signal handlers at first use. Failed: the table is full or sigaction refused.
    Result<> add(const void* begin, std::uint64_t length, HostFaultHandler handler, void* argument);

  private:
    int slot_ = -1;
};

/// An instruction that ran on the host for the guest raised an exception that nothing explains: the
/// engine's table of instructions is wrong about it. Tells so in the log (rate-limited). The
/// guest's vector values must not be live.
void report_unexplained_fault(std::string_view instruction, std::uint8_t vector);

/// Gives the calling thread its alternate signal stack; kept until the thread ends. Idempotent.
Result<> prepare_host_fault_thread();

}  // namespace strata::engine::soft
