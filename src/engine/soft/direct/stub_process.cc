// StubProcess: running, stopping, mapping.
#include "engine/soft/direct/stub_process.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "arch/x86/registers.h"
#include "engine/soft/direct/stub_filter.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kRunSpins = 100;  // about as long as going to sleep and being woken takes
constexpr std::uint32_t kMapSpins = 300;
constexpr long kAliveEvery = 50'000'000;  // ns
constexpr int kQuickTurns = 200;          // of waiting for a stub to stop, then one each kSlowTurn
constexpr timespec kSlowTurn{0, 200'000};
constexpr int kPatience =
    50'000;  // a host so busy that a ready thread waits ten seconds has other worries
constexpr std::size_t kSoftwareBytes =
    464;  // of the legacy region: the kernel's own words to the signal frame's reader
constexpr std::size_t kLegacyBytes = 512;

// SAFETY: the words lie in memory that another process changes: only ever read and written as
// atomics.
std::uint32_t load(const std::uint32_t& word) {
    return __atomic_load_n(&word, __ATOMIC_SEQ_CST);
}
void store(std::uint32_t& word, std::uint32_t value) {
    __atomic_store_n(&word, value, __ATOMIC_SEQ_CST);
}

long futex(std::uint32_t& word, int operation, std::uint32_t value, const timespec* timeout,
           std::uint32_t* other = nullptr, std::uint32_t compare = 0) {
    return syscall(SYS_futex, &word, operation, value, timeout, other, compare);
}

}  // namespace

StubArea& StubProcess::area() const {
    return *reinterpret_cast<StubArea*>(area_.data());
}

Result<std::unique_ptr<StubProcess>> StubProcess::create(Zygote& zygote, std::uint64_t base) {
    const UniqueFd file(memfd_create("stub", MFD_CLOEXEC));
    if (!file || ftruncate(file.get(), sizeof(StubArea)) != 0) {
        return Error::from_errno("making the area of a stub process");
    }
    auto mapping = STRATA_TRY(
        MmapRegion::map(sizeof(StubArea), PROT_READ | PROT_WRITE, MAP_SHARED, file.get()));
    std::unique_ptr<StubProcess> stub(new StubProcess(std::move(mapping), base));
    StubArea& area = stub->area();
    std::memcpy(area.code, strata_stub_begin,
                static_cast<std::size_t>(strata_stub_end - strata_stub_begin));
    const std::uint64_t filters = base + offsetof(StubArea, orders) + offsetof(StubOrders, filters);
    area.orders.guest_program = {write_guest_filter(base, area.orders.filters[0]), filters};
    area.orders.helper_program = {write_helper_filter(base, area.orders.filters[1]),
                                  filters + sizeof area.orders.filters[0]};
    area.orders.ram_fd = kStubRamFd;
    area.orders.vector_mask = static_cast<std::uint32_t>(host_vector_mask());
    NewStub made = STRATA_TRY(zygote.make_stub(file.get(), base));
    stub->process_ = std::move(made.process);
    stub->listener_ = std::move(made.listener);
    stub->pid_ = made.pid;
    if (!stub->start()) {
        return Error(ErrorKind::Failed,
                     "a stub process does not start: the host refuses something that it needs");
    }
    return stub;
}

// Until both threads wait; the guest's has run nothing yet.
bool StubProcess::start() {
    if (!listener_) {
        return wait_for(area().reports.done, 1, 0, false) && stopped();
    }
    constexpr unsigned long kSetFlags = SECCOMP_IOW(4, std::uint64_t);
    // Whoever is woken goes on at this processor. Slower without it.
    (void)ioctl(listener_.get(), kSetFlags, 1UL);
    guest_.thread = pid_;
    return receive(helper_) && receive(guest_);
}

// Until this thread waits in the kernel. False: the process has ended.
bool StubProcess::receive(Waiting& who) {
    while (who.id == 0) {
        seccomp_notif seen{};
        if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &seen) != 0) {
            // A signal, here or there before it was seen, ends no wait.
            if (errno == EINTR || (errno == ENOENT && alive())) {
                continue;
            }
            return false;
        }
        const int thread = static_cast<int>(seen.pid);
        if (thread == guest_.thread) {
            guest_.id = seen.id;
        } else if (helper_.thread == 0 || helper_.thread == thread) {
            helper_ = {thread, seen.id};
        } else {
            return false;
        }
    }
    return true;
}

bool StubProcess::release(Waiting& who) {
    seccomp_notif_resp answer{};
    answer.id = std::exchange(who.id, 0);
    return ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0;
}

StubProcess::~StubProcess() {
    if (process_) {
        signal(SIGKILL);
    }
}

void StubProcess::signal(int number) const {
    (void)syscall(SYS_pidfd_send_signal, process_.get(), number, nullptr,
                  0);  // gone: run() finds out
}

// The gate first: what the guest writes over `entered` would let the handler go on again.
void StubProcess::kick(std::uint64_t patience_ns) {
    const bool open = __atomic_exchange_n(&area().orders.gate, 0, __ATOMIC_SEQ_CST) != 0;
    const std::uint64_t spent = cpu_time();
    if (open) {
        kicked_at_ = spent;
    } else if (kicked_at_ != kNotKicked && spent > kicked_at_ && spent - kicked_at_ > patience_ns) {
        signal(SIGKILL);  // it has gone on all that time
        return;
    }
    signal(kStubKick);
    if (!listener_) {
        (void)futex(area().reports.done, FUTEX_WAKE, 1, nullptr);  // run() looks at the gate
    }
}

std::uint64_t StubProcess::cpu_time() const {
    // The kernel's form of a process's clock: its inverted number, and which of its clocks.
    constexpr int kScheduled = 2;
    const auto clock = static_cast<clockid_t>((~static_cast<unsigned>(pid_) << 3U) | kScheduled);
    timespec time{};
    return clock_gettime(clock, &time) == 0
               ? static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U +
                     static_cast<std::uint64_t>(time.tv_nsec)
               : 0;
}

bool StubProcess::alive() const {
    pollfd wait{process_.get(), POLLIN, 0};
    return poll(&wait, 1, 0) == 0;
}

// Until `word` is `value`, or (`gated`) the gate is closed. False: the process has ended.
bool StubProcess::wait_for(std::uint32_t& word, std::uint32_t value, std::uint32_t spins,
                           bool gated) {
    for (std::uint32_t i = 0; i < spins; ++i) {
        if (load(word) == value) {
            return true;
        }
        __builtin_ia32_pause();
    }
    std::uint32_t& sleeping = area().orders.sleeping;
    store(sleeping,
          1);  // before the look below: the stub stores its word before it looks at this one
    bool good = true;
    for (std::uint32_t seen = load(word);
         seen != value && good && !(gated && load(area().orders.gate) == 0); seen = load(word)) {
        const timespec limit{0, kAliveEvery};
        if (futex(word, FUTEX_WAIT, seen, &limit) != 0 && errno == ETIMEDOUT) {
            good = alive() || load(word) == value;
        }
    }
    store(sleeping, 0);
    return good;
}

// Closes the gate and waits until the kernel vouches for the guest's thread waiting behind it.
// False: killed, as it would not.
bool StubProcess::stopped() {
    std::uint32_t& gate = area().orders.gate;
    store(gate, 0);
    for (int turn = 0; turn < kPatience; ++turn) {
        // Moves all waiters from the futex to itself, wakes none, and tells how many there were.
        if (futex(gate, FUTEX_CMP_REQUEUE, 0, reinterpret_cast<const timespec*>(1L), &gate, 0) ==
            1) {
            return true;
        }
        if (turn < kQuickTurns) {
            if (turn > 3) {
                (void)sched_yield();  // cannot fail; it may be waiting for this processor
            }
            continue;
        }
        signal(kStubKick);                     // guest code that only claimed to have stopped
        (void)nanosleep(&kSlowTurn, nullptr);  // woken early: as well
        if (!alive()) {
            return false;
        }
    }
    signal(SIGKILL);  // alive it would go on
    return false;
}

bool StubProcess::run(const StubRegisters& registers,
                      std::span<std::byte, arch::x86::kXsaveBytes> xsave, StubExit& exit) {
    StubArea& shared = area();
    StubOrders& orders = shared.orders;
    std::memcpy(orders.gpr, registers.gpr, sizeof orders.gpr);
    orders.rip = registers.rip;
    orders.rflags = registers.rflags;
    orders.fs_base = registers.fs_base;
    orders.gs_base = registers.gs_base;
    std::memcpy(orders.xsave, xsave.data(), xsave.size());
    runs_ = runs_ + 1 == 0 ? 1 : runs_ + 1;
    store(shared.reports.entered, 0);
    store(shared.reports.done, 0);
    kicked_at_ = kNotKicked;
    store(orders.gate, runs_);
    if (!finish_run()) {
        return false;
    }
    if (load(shared.reports.entered) != runs_) {
        // A kick closed the gate before it was seen open, or the guest would have it so. The
        // context is one of before.
        exit = {};
        exit.signal = kStubKick;
        exit.entered = false;
        return true;
    }
    return read_context(xsave, exit);
}

// Lets it go, and comes back when it is known to wait again.
bool StubProcess::finish_run() {
    StubArea& shared = area();
    if (!listener_) {
        // It does wait: one is woken.
        (void)futex(shared.orders.gate, FUTEX_WAKE, 1, nullptr);
        return wait_for(shared.reports.done, 1, kRunSpins, true) && stopped();
    }
    const bool good = release(guest_) && receive(guest_);
    store(shared.orders.gate, 0);
    return good;
}

bool StubProcess::finish_order() {
    StubArea& shared = area();
    if (!listener_) {
        // It may be on its way to wait: then it sees the number.
        (void)futex(shared.orders.map_go, FUTEX_WAKE, 1, nullptr);
        return wait_for(shared.reports.map_done, orders_, kMapSpins, false);
    }
    return release(helper_) && receive(helper_) && load(shared.reports.map_done) == orders_;
}

bool StubProcess::apply(std::span<const StubMap> maps) {
    StubArea& shared = area();
    const auto apart = [this](const StubMap& map) {
        return map.address + map.length <= base_ || map.address >= base_ + sizeof(StubArea);
    };
    if (!std::all_of(maps.begin(), maps.end(), apart)) {
        return false;
    }
    while (!maps.empty()) {
        const auto part = maps.first(std::min<std::size_t>(maps.size(), kStubMaps));
        maps = maps.subspan(part.size());
        std::memcpy(shared.orders.maps, part.data(), part.size_bytes());
        shared.orders.map_count = static_cast<std::uint32_t>(part.size());
        ++orders_;
        store(shared.reports.map_done, orders_ - 1);
        store(shared.orders.map_go, orders_);
        if (!finish_order() || load(shared.reports.map_failed) != 0) {
            return false;
        }
        // Guest code may find the orders and read them: where its pages lie in RAM is not for it to
        // know.
        std::memset(shared.orders.maps, 0, part.size_bytes());
    }
    return true;
}

// The signal frame: guest code may have written all of it and chosen its place. False: it is not
// one.
bool StubProcess::read_context(std::span<std::byte, arch::x86::kXsaveBytes> xsave,
                               StubExit& exit) const {
    const StubReports& reports = area().reports;
    const std::uint64_t stack = base_ + offsetof(StubArea, reports) + offsetof(StubReports, stack);
    const auto inside = [stack](std::uint64_t address, std::size_t bytes) {
        return address >= stack && address - stack <= sizeof reports.stack - bytes;
    };
    exit.signal = static_cast<int>(reports.signal);
    const std::uint64_t at = reports.context;
    constexpr std::size_t kContextBytes = offsetof(ucontext_t, uc_mcontext.fpregs) + 8;
    if (!inside(at, kContextBytes)) {
        return false;
    }
    std::uint64_t saved[23];
    std::uint64_t image = 0;
    static_assert(sizeof saved == sizeof(gregset_t));
    const std::byte* context = reports.stack + (at - stack);
    std::memcpy(saved, context + offsetof(ucontext_t, uc_mcontext.gregs), sizeof saved);
    std::memcpy(&image, context + offsetof(ucontext_t, uc_mcontext.fpregs), sizeof image);
    StubRegisters& to = exit.registers;
    to.rip = saved[REG_RIP];
    exit.trap = static_cast<std::uint32_t>(saved[REG_TRAPNO]);
    exit.error = static_cast<std::uint32_t>(saved[REG_ERR]);
    exit.address = saved[REG_CR2];
    if (to.rip - stub_place(base_, strata_stub_enter) <
        static_cast<std::uint64_t>(strata_stub_enter_end - strata_stub_enter)) {
        exit.entered = false;
        return true;
    }
    exit.entered = true;
    constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};
    for (int i = 0; i < 16; ++i) {
        to.gpr[i] = saved[kOrder[i]];
    }
    to.rflags = saved[REG_EFL];
    to.cs = static_cast<std::uint16_t>(saved[REG_CSGSFS]);
    to.ss = static_cast<std::uint16_t>(saved[REG_CSGSFS] >> 48U);
    to.ds = reports.selectors[0];
    to.es = reports.selectors[1];
    to.fs = reports.selectors[2];
    to.gs = reports.selectors[3];
    to.fs_base = reports.fs_base;
    to.gs_base = reports.gs_base;
    constexpr std::size_t kLeast = 576;
    if (!inside(image, kLeast)) {
        return false;
    }
    const std::byte* from = reports.stack + (image - stack);
    const std::size_t bytes = std::min<std::size_t>(
        xsave.size(), static_cast<std::size_t>(reports.stack + sizeof reports.stack - from));
    std::memcpy(xsave.data(), from, kSoftwareBytes);
    std::memcpy(xsave.data() + kLegacyBytes, from + kLegacyBytes, bytes - kLegacyBytes);
    return true;
}

}  // namespace strata::engine::soft
