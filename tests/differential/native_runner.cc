// NativeRunner: the child, its mappings and its signal handler.
#include "differential/native_runner.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include <asm/prctl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
// native_entry.S
void strata_native_enter(const void* start, const void* xsave, void** saved_rsp);
void strata_native_resume();
}

namespace strata::differential {
namespace {

constexpr std::size_t kMaxCode = 256;

// What parent and child share: one case in, one outcome out.
struct Exchange {
    std::uint64_t start[18];  // gpr, rip, rflags: native_entry.S's order
    alignas(64) std::array<std::byte, arch::x86::kXsaveBytes> xsave;
    std::uint64_t gs_base;
    std::uint32_t code_size;
    std::uint8_t code[kMaxCode];
    DataBytes data;
    std::uint64_t end[18];
    alignas(64) std::array<std::byte, arch::x86::kXsaveBytes> end_xsave;
    std::uint64_t trap, error, fault_address;
};

// The child has one of each, reached from its signal handler.
Exchange* g_exchange = nullptr;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
void* g_saved_rsp = nullptr;     // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

constexpr int kContextOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                   REG_R12, REG_R13, REG_R14, REG_R15};

void on_signal(int, siginfo_t*, void* raw) {
    auto* context = static_cast<ucontext_t*>(raw);
    auto& registers = context->uc_mcontext.gregs;
    Exchange& exchange = *g_exchange;
    for (int i = 0; i < 16; ++i) {
        exchange.end[i] = static_cast<std::uint64_t>(registers[kContextOrder[i]]);
    }
    exchange.end[16] = static_cast<std::uint64_t>(registers[REG_RIP]);
    exchange.end[17] = static_cast<std::uint64_t>(registers[REG_EFL]);
    exchange.trap = static_cast<std::uint64_t>(registers[REG_TRAPNO]);
    exchange.error = static_cast<std::uint64_t>(registers[REG_ERR]);
    exchange.fault_address = static_cast<std::uint64_t>(registers[REG_CR2]);
    // The frame's state is an XSAVE image of at least 832 bytes; its size stands in the
    // software-reserved bytes. SDM 1, 13.4; Linux sigcontext.h.
    auto* image = reinterpret_cast<std::byte*>(context->uc_mcontext.fpregs);
    std::uint32_t size = 0;
    std::memcpy(&size, image + 464 + 16, sizeof(size));
    if (size < 512 || size > arch::x86::kXsaveBytes) {
        size = 832;
    }
    std::memcpy(exchange.end_xsave.data(), image, size);
    registers[REG_RIP] =
        static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(&strata_native_resume));
    registers[REG_RSP] = static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(g_saved_rsp));
    registers[REG_EFL] = 0x202;
    // Back to the C++ defaults: no x87 stack, all exceptions masked.
    const std::uint16_t control = 0x37f;
    const std::uint16_t nothing = 0;
    const std::uint32_t mxcsr = 0x1f80;
    std::memcpy(image, &control, 2);
    std::memcpy(image + 2, &nothing, 2);
    std::memset(image + 4, 0, 1);
    std::memcpy(image + 24, &mxcsr, 4);
}

[[noreturn]] void child_dies(const char* why) {
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, why, std::strlen(why));
    ::_exit(3);
}

void map_at(std::uint64_t address, std::uint64_t pages, int protection) {
    // SAFETY: the Layout's addresses are the test's own choice, below every mapping of a
    // position-independent program.
    void* wanted = reinterpret_cast<void*>(address);
    if (::mmap(wanted, pages * kPage, protection,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0) != wanted) {
        child_dies("native runner: an address of the layout is taken\n");
    }
}

std::byte* at(std::uint64_t address) {
    return reinterpret_cast<std::byte*>(address);
}

void map_layout() {
    map_at(Layout::kCode, Layout::kCodePages, PROT_READ | PROT_WRITE | PROT_EXEC);
    map_at(Layout::kData, 2, PROT_READ | PROT_WRITE);
    map_at(Layout::kReadOnly, 1, PROT_READ | PROT_WRITE);
    map_at(Layout::kAfterReadOnly, 1, PROT_READ | PROT_WRITE);
    map_at(Layout::kStack, 1, PROT_READ | PROT_WRITE);
}

void handle_signals() {
    static std::array<std::byte, 1 << 16> stack;
    stack_t alternate{};
    alternate.ss_sp = stack.data();
    alternate.ss_size = stack.size();
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    bool fine = ::sigaltstack(&alternate, nullptr) == 0;
    for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) {
        fine = fine && ::sigaction(number, &action, nullptr) == 0;
    }
    if (!fine) {
        child_dies("native runner: cannot install the signal handler\n");
    }
}

void run_one(Exchange& exchange) {
    std::memset(at(Layout::kCode), 0xcc, Layout::kCodePages * kPage);
    std::memcpy(at(exchange.start[16]), exchange.code, exchange.code_size);
    (void)::mprotect(at(Layout::kReadOnly), kPage,
                     PROT_READ | PROT_WRITE);  // cannot fail: the page was mapped above
    for (std::size_t page = 0; page < kDataPages; ++page) {
        std::memcpy(at(kDataPageAddress[page]), exchange.data[page].data(), kPage);
    }
    (void)::mprotect(at(Layout::kReadOnly), kPage, PROT_READ);
    (void)::mprotect(at(Layout::kCode), Layout::kCodePages * kPage, PROT_READ | PROT_EXEC);
    (void)::syscall(SYS_arch_prctl, ARCH_SET_GS, exchange.gs_base);
    strata_native_enter(exchange.start, exchange.xsave.data(), &g_saved_rsp);
    (void)::mprotect(at(Layout::kCode), Layout::kCodePages * kPage,
                     PROT_READ | PROT_WRITE | PROT_EXEC);
    for (std::size_t page = 0; page < kDataPages; ++page) {
        std::memcpy(exchange.data[page].data(), at(kDataPageAddress[page]), kPage);
    }
}

[[noreturn]] void child_main(Exchange* exchange, int from_parent, int to_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    g_exchange = exchange;
    map_layout();
    handle_signals();
    char byte = 0;
    while (::read(from_parent, &byte, 1) == 1) {
        run_one(*exchange);
        if (::write(to_parent, &byte, 1) != 1) {
            break;
        }
    }
    ::_exit(0);
}

}  // namespace

Result<std::unique_ptr<NativeRunner>> NativeRunner::create() {
    std::unique_ptr<NativeRunner> runner(new NativeRunner);
    runner->shared_ =
        STRATA_TRY(MmapRegion::map(sizeof(Exchange), PROT_READ | PROT_WRITE, MAP_SHARED));
    STRATA_TRY_VOID(runner->start_child());
    return runner;
}

NativeRunner::~NativeRunner() {
    stop_child();
}

Result<> NativeRunner::start_child() {
    int down[2];
    int up[2];
    if (::pipe2(down, O_CLOEXEC) != 0) {
        return Error::from_errno("cannot make a pipe");
    }
    const UniqueFd child_in(down[0]);
    to_child_.reset(down[1]);
    if (::pipe2(up, O_CLOEXEC) != 0) {
        return Error::from_errno("cannot make a pipe");
    }
    from_child_.reset(up[0]);
    const UniqueFd child_out(up[1]);
    child_ = ::fork();
    if (child_ < 0) {
        return Error::from_errno("cannot fork");
    }
    if (child_ == 0) {
        to_child_.reset();
        from_child_.reset();
        // SAFETY: the region was mapped with this size and alignment.
        child_main(reinterpret_cast<Exchange*>(shared_.data()), child_in.get(), child_out.get());
    }
    return ok();
}

void NativeRunner::stop_child() {
    if (child_ > 0) {
        ::kill(child_, SIGKILL);
        (void)::waitpid(child_, nullptr, 0);  // its status says only that we killed it
        child_ = -1;
    }
}

Result<Outcome> NativeRunner::run(const TestCase& test) {
    // SAFETY: as above.
    auto& exchange = *reinterpret_cast<Exchange*>(shared_.data());
    STRATA_CHECK(test.code.size() <= kMaxCode, "a case's code is small");
    std::copy(test.start.gpr.begin(), test.start.gpr.end(), exchange.start);
    exchange.start[16] = test.start.rip;
    exchange.start[17] = test.start.rflags;
    exchange.xsave = test.start.xsave;
    exchange.gs_base = test.gs_base;
    exchange.code_size = static_cast<std::uint32_t>(test.code.size());
    std::copy(test.code.begin(), test.code.end(), exchange.code);
    exchange.data = test.data;
    exchange.end_xsave = {};
    const char byte = 1;
    Outcome outcome;
    pollfd ready{from_child_.get(), POLLIN, 0};
    char answer = 0;
    if (::write(to_child_.get(), &byte, 1) != 1 || ::poll(&ready, 1, 1000) != 1 ||
        ::read(from_child_.get(), &answer, 1) != 1) {
        stop_child();
        STRATA_TRY_VOID(start_child());
        outcome.timed_out = true;
        return outcome;
    }
    std::copy(exchange.end, exchange.end + 16, outcome.end.gpr.begin());
    outcome.end.rip = exchange.end[16];
    outcome.end.rflags = exchange.end[17];
    outcome.end.xsave = exchange.end_xsave;
    outcome.vector = static_cast<std::uint8_t>(exchange.trap);
    outcome.error = exchange.error;
    outcome.fault_address = exchange.fault_address;
    outcome.data = exchange.data;
    return outcome;
}

Result<bool> NativeRunner::has_own_memory_at(std::uint64_t address) const {
    constexpr std::uint64_t kReach = 64;
    std::ifstream maps(fmt::format("/proc/{}/maps", child_));
    std::string line;
    while (std::getline(maps, line)) {
        std::uint64_t start = 0;
        std::uint64_t end = 0;
        if (std::sscanf(line.c_str(), "%lx-%lx", &start, &end) != 2) {
            return Error{ErrorKind::Failed, "an unknown line in /proc/PID/maps: " + line};
        }
        const bool in_layout = start >= Layout::kCode && end <= Layout::kStack + kPage;
        if (!in_layout && address < end && address + kReach > start) {
            return true;
        }
    }
    return false;
}

void NativeRunner::vector_start(arch::x86::ArchState& state) {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const std::uint64_t present = low & 0xe7U;  // x87, SSE, AVX and the three AVX-512 parts
    std::memcpy(state.xsave.data() + 512, &present, sizeof(present));
    const std::uint16_t control = 0x37f;
    const std::uint32_t mxcsr = 0x1f80;
    std::memcpy(state.xsave.data(), &control, 2);
    std::memset(state.xsave.data() + 4, 0xff, 1);  // all x87 registers in use
    std::memcpy(state.xsave.data() + 24, &mxcsr, 4);
    state.xcr0 = present;
}

}  // namespace strata::differential
