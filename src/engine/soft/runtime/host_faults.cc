// Host faults: the process-wide signal handler and its table of code ranges.
#include "engine/soft/runtime/host_faults.h"

#include <array>
#include <atomic>
#include <cerrno>

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/log.h"
#include "base/mutex.h"

namespace strata::engine::soft {
namespace {

constexpr std::size_t kSlots = 2048;
constexpr std::size_t kStackBytes =
    64U << 10U;  // AVX-512 frames take about 4 KiB; sanitizers and nested faults more
constexpr std::array kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

// Written under the registration mutex; `begin` is stored last with release and cleared first, so
// that the handler, which takes no lock, never sees a half-written slot.
struct Slot {
    std::atomic<std::uint64_t> begin{0};
    std::atomic<std::uint64_t> end{0};
    std::atomic<HostFaultHandler> handler{nullptr};
    std::atomic<void*> argument{nullptr};
};

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): a signal handler has nothing but
// globals.
Slot g_slots[kSlots];
std::atomic<std::size_t> g_used{0};
Mutex g_mutex;
bool g_installed = false;
struct sigaction g_previous[kSignals.size()];
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

bool dispatch(HostFault& fault) noexcept {
    const std::size_t used = g_used.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < used; ++i) {
        const std::uint64_t begin = g_slots[i].begin.load(std::memory_order_acquire);
        if (begin != 0 && fault.pc >= begin &&
            fault.pc < g_slots[i].end.load(std::memory_order_relaxed)) {
            return g_slots[i].handler.load(std::memory_order_relaxed)(
                g_slots[i].argument.load(std::memory_order_relaxed), fault);
        }
    }
    return false;
}

void pass_on(int number, siginfo_t* info, void* context) {
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
        if (kSignals[i] != number) {
            continue;
        }
        const struct sigaction& old = g_previous[i];
        if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr) {
            old.sa_sigaction(number, info, context);
        } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
            old.sa_handler(number);
        } else {
            // The faulting instruction runs again and ends the process with the right status.
            (void)signal(number, SIG_DFL);
        }
    }
}

void on_signal(int number, siginfo_t* info, void* raw) {
    const int saved_errno = errno;
    auto* context = static_cast<ucontext_t*>(raw);
    // SAFETY: gregset_t is an array of 64-bit registers on x86-64.
    auto* registers = reinterpret_cast<std::uint64_t*>(context->uc_mcontext.gregs);
    HostFault fault;
    fault.signal = number;
    fault.trap = static_cast<std::uint32_t>(registers[REG_TRAPNO]);
    fault.error = registers[REG_ERR];
    fault.address = reinterpret_cast<std::uint64_t>(info->si_addr);
    fault.pc = registers[REG_RIP];
    fault.sp = registers[REG_RSP];
    fault.registers = registers;
    if (dispatch(fault)) {
        registers[REG_RIP] = fault.pc;
        registers[REG_RSP] = fault.sp;
    } else {
        pass_on(number, info, raw);
    }
    errno = saved_errno;
}

Result<> install() STRATA_REQUIRES(g_mutex) {
    if (g_installed) {
        return ok();
    }
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        if (sigaction(kSignals[i], &action, &g_previous[i]) != 0) {
            return Error::from_errno("installing the handler of host faults");
        }
    }
    g_installed = true;
    return ok();
}

class AlternateStack {
  public:
    AlternateStack() = default;
    AlternateStack(const AlternateStack&) = delete;
    AlternateStack& operator=(const AlternateStack&) = delete;
    ~AlternateStack() {
        if (memory_ != nullptr) {
            stack_t off = {};
            off.ss_flags = SS_DISABLE;
            (void)sigaltstack(&off, nullptr);  // at thread end nothing can be done about a failure
            (void)munmap(memory_, kStackBytes);
        }
    }
    Result<> prepare() {
        stack_t current = {};
        if (memory_ != nullptr) {
            return ok();
        }
        if (sigaltstack(nullptr, &current) == 0 && (current.ss_flags & SS_DISABLE) == 0 &&
            current.ss_size >= kStackBytes / 2) {
            return ok();
        }
        void* memory =
            mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            return Error::from_errno("mapping a signal stack");
        }
        stack_t stack = {};
        stack.ss_sp = memory;
        stack.ss_size = kStackBytes;
        if (sigaltstack(&stack, nullptr) != 0) {
            Error error = Error::from_errno("setting the signal stack");
            (void)munmap(memory, kStackBytes);
            return error;
        }
        memory_ = memory;
        return ok();
    }

  private:
    void* memory_ = nullptr;
};

}  // namespace

HostFaultRange::~HostFaultRange() {
    if (slot_ >= 0) {
        const MutexLock lock(g_mutex);
        g_slots[slot_].begin.store(0, std::memory_order_release);
    }
}

Result<> HostFaultRange::add(const void* begin, std::uint64_t length, HostFaultHandler handler,
                             void* argument) {
    const MutexLock lock(g_mutex);
    STRATA_TRY_VOID(install());
    for (std::size_t i = 0; i < kSlots; ++i) {
        Slot& slot = g_slots[i];
        if (slot.begin.load(std::memory_order_relaxed) != 0) {
            continue;
        }
        const auto start = reinterpret_cast<std::uint64_t>(begin);
        slot.end.store(start + length, std::memory_order_relaxed);
        slot.handler.store(handler, std::memory_order_relaxed);
        slot.argument.store(argument, std::memory_order_relaxed);
        slot.begin.store(start, std::memory_order_release);
        if (g_used.load(std::memory_order_relaxed) <= i) {
            g_used.store(i + 1, std::memory_order_release);
        }
        slot_ = static_cast<int>(i);
        return ok();
    }
    return Error(ErrorKind::Failed, "too many ranges of generated code");
}

void report_unexplained_fault(std::string_view instruction, std::uint8_t vector) {
    static log::RateLimit limit;
    if (limit.pass()) {
        log::error("exception {} of {} on the host is not the guest's: the guest gets #UD", vector,
                   instruction);
    }
}

Result<> prepare_host_fault_thread() {
    thread_local AlternateStack stack;
    return stack.prepare();
}

}  // namespace strata::engine::soft
