// Zygote: the fork, the server, and a stub's first steps.
#include "engine/soft/direct/zygote.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <string>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "engine/soft/direct/stub_filter.h"
#include "engine/soft/direct/stub_layout.h"

namespace strata::engine::soft {
namespace {

constexpr std::array kHandled = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, kStubKick};

// As the kernel wants it: glibc's own form differs, and its wrappers put a restorer of their own
// in.
struct KernelSigaction {
    std::uint64_t handler, flags, restorer, mask;
};
constexpr std::uint64_t kSaRestorer = 0x04000000;

[[noreturn]] void give_up() {
    _exit(1);
}

void require(bool good) {
    if (!good) {
        give_up();
    }
}

// close_range() is there since Linux 5.9, and only where no policy of a container refuses it.
bool close_from(int first) {
    if (syscall(SYS_close_range, first, ~0U, 0) == 0) {
        return true;
    }
    const std::unique_ptr<DIR, int (*)(DIR*)> open(opendir("/proc/self/fd"), closedir);
    if (!open) {
        return false;
    }
    std::vector<int> numbers;
    while (const dirent* entry = readdir(open.get())) {
        const std::string_view name = entry->d_name;
        int fd = -1;
        (void)std::from_chars(name.data(), name.data() + name.size(), fd);  // not a number: -1
        if (fd >= first && fd != dirfd(open.get())) {
            numbers.push_back(fd);
        }
    }
    for (const int fd : numbers) {
        (void)close(fd);
    }
    return true;
}

void map_part(int fd, std::uint64_t base, std::size_t offset, std::size_t bytes, int protection) {
    // SAFETY: `base` is far from anything of ours: the kernel refuses to replace a mapping.
    void* at = mmap(reinterpret_cast<void*>(base + offset), bytes, protection,
                    MAP_SHARED | MAP_FIXED_NOREPLACE, fd, static_cast<off_t>(offset));
    require(at == reinterpret_cast<void*>(base + offset));
}

void install_handlers(std::uint64_t base) {
    stack_t stack{};
    stack.ss_sp =
        reinterpret_cast<void*>(base + offsetof(StubArea, reports) + offsetof(StubReports, stack));
    stack.ss_size = sizeof(StubReports::stack);
    require(sigaltstack(&stack, nullptr) == 0);
    const KernelSigaction action{stub_place(base, strata_stub_handler),
                                 SA_SIGINFO | SA_ONSTACK | kSaRestorer,
                                 stub_place(base, strata_stub_handler), ~std::uint64_t{0}};
    for (const int number : kHandled) {
        require(syscall(SYS_rt_sigaction, number, &action, nullptr, sizeof action.mask) == 0);
    }
}

// In the child: becomes a stub. Its memory is the zygote's until strata_stub_start unmaps it.
[[noreturn]] void become_stub(int area, std::uint64_t base) {
    require(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    map_part(area, base, 0, sizeof(StubArea::code), PROT_READ | PROT_EXEC);
    map_part(area, base, offsetof(StubArea, orders), sizeof(StubOrders), PROT_READ);
    map_part(area, base, offsetof(StubArea, reports), sizeof(StubReports), PROT_READ | PROT_WRITE);
    install_handlers(base);
    const std::uint64_t all = ~std::uint64_t{0};
    require(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof all) == 0);
    require(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
    if (__rseq_size != 0) {
        // SAFETY: the C library's registration, which is about to lose its memory.
        auto* area_of_thread = static_cast<std::byte*>(__builtin_thread_pointer()) + __rseq_offset;
        constexpr unsigned kRseqBytes = 32;
        require(syscall(SYS_rseq, area_of_thread, kRseqBytes, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0);
    }
    for (int fd = 0; fd < kStubRamFd; ++fd) {
        (void)close(fd);  // those that are open; guest code could not use them either
    }
    if (syscall(SYS_close_range, kStubRamFd + 1, ~0U, 0) != 0) {
        constexpr int kAboveAll = 64;  // the zygote has a handful, of the lowest numbers
        for (int fd = kStubRamFd + 1; fd < kAboveAll; ++fd) {
            (void)close(fd);
        }
    }
    const std::uint64_t entry = stub_place(base, strata_stub_start);
    __asm__ volatile("jmp *%0" : : "r"(entry) : "memory");
    __builtin_unreachable();
}

// `number`: an error if negative, else the new process.
void answer(const io::PacketSocket& socket, long number, int fd) {
    const std::string text = std::to_string(number);
    if (auto sent = socket.send(text, fd >= 0 ? std::vector<int>{fd} : std::vector<int>{}); !sent) {
        give_up();
    }
}

// In the child, first of all: the VMM's listener. Without one it waits by futex.
void send_listener(const io::PacketSocket& socket, std::uint64_t base) {
    constexpr unsigned long kWaitKillable = 1UL << 5U;  // since Linux 5.19
    std::array<std::uint64_t, kStubFilterWords> code{};
    const StubProgram program{write_notifying_filter(base, code),
                              reinterpret_cast<std::uint64_t>(code.data())};
    const UniqueFd listener(
        static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                 SECCOMP_FILTER_FLAG_NEW_LISTENER | kWaitKillable, &program)));
    answer(socket, 0, listener.get());
}

struct Request {
    int area;
    std::uint64_t base;
    bool notify;
};

void make_stub(const io::PacketSocket& socket, const Request& request) {
    int pidfd = -1;
    // As fork(): the child goes on here with a copy of everything.
    const long child = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0L, &pidfd, 0L, 0L);
    if (child == 0) {
        if (request.notify) {
            send_listener(socket, request.base);
        }
        become_stub(request.area, request.base);
    }
    answer(socket, child < 0 ? -errno : child, pidfd);
    if (pidfd >= 0) {
        (void)close(pidfd);  // ours alone
    }
}

[[noreturn]] void serve(const io::PacketSocket& socket, bool notify) {
    for (;;) {
        auto packet = socket.receive();
        if (!packet || !packet->has_value() || (*packet)->fds.size() != 1) {
            _exit(0);  // the VMM is gone
        }
        std::uint64_t base = 0;
        const std::string& text = (*packet)->text;
        (void)std::from_chars(text.data(), text.data() + text.size(), base);  // not a number: 0
        const int fd = (*packet)->fds[0].get();
        if (base != 0) {
            make_stub(socket, {fd, base, notify});
        } else {
            answer(socket, dup2(fd, kStubRamFd) == kStubRamFd ? 0 : -errno, -1);
        }
    }
}

[[noreturn]] void run_zygote(io::PacketSocket socket, const std::function<Result<>()>& lock_up,
                             bool notify) {
    constexpr int kOwnSocket = 4;
    (void)setpgid(0,
                  0);  // so that signals of a terminal do not arrive; cannot fail for a new process
    UniqueFd from = std::move(socket).release();
    const int high = fcntl(from.get(), F_DUPFD_CLOEXEC, kOwnSocket + 1);
    require(high >= 0 && dup2(high, kOwnSocket) == kOwnSocket);
    require(dup2(kOwnSocket, kStubRamFd) ==
            kStubRamFd);  // taken, so that no descriptor that arrives gets this number
    require(close_from(kOwnSocket + 1));
    (void)from.release();  // closed, unless it was the same number
    const io::PacketSocket own{UniqueFd(kOwnSocket)};
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;  // children need no waiting for
    require(sigaction(SIGCHLD, &ignore, nullptr) == 0);
    const rlimit no_core{};  // it would hold the guest's memory
    require(setrlimit(RLIMIT_CORE, &no_core) == 0);
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (lock_up) {
        require(lock_up().ok());
    }
    serve(own, notify);
}

}  // namespace

bool Zygote::host_notifies() {
    // 6.6 hands over without moving to another processor, 6.11 says when the listener's tasks have
    // ended.
    constexpr int kMajor = 6, kMinor = 11;
    utsname name{};
    if (uname(&name) != 0) {
        return false;
    }
    const std::string_view text = name.release;
    int major = 0, minor = 0;
    const char* end = text.data() + text.size();
    const auto dot = std::from_chars(text.data(), end, major);
    if (dot.ec != std::errc() || dot.ptr == end || *dot.ptr != '.' ||
        std::from_chars(dot.ptr + 1, end, minor).ec != std::errc()) {
        return false;
    }
    return major > kMajor || (major == kMajor && minor >= kMinor);
}

Result<std::unique_ptr<Zygote>> Zygote::start(const std::function<Result<>()>& lock_up,
                                              bool notify) {
    auto [ours, its] = STRATA_TRY(io::PacketSocket::pair());
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) {
        return Error::from_errno("forking the maker of stub processes");
    }
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);  // cannot fail for a valid signal
        if (getppid() != parent) {
            _exit(0);
        }
        run_zygote(std::move(its), lock_up, notify);
    }
    return std::unique_ptr<Zygote>(new Zygote(std::move(ours), notify));
}

// One packet of the zygote's, or of a stub that has just begun.
Result<io::Packet> Zygote::receive() {
    auto packet = STRATA_TRY(socket_.receive());
    if (!packet) {
        return Error(ErrorKind::Unreachable, "the maker of stub processes is gone");
    }
    return std::move(*packet);
}

// Until a packet comes. False: the stub has ended and has not sent any.
bool Zygote::hears_of(const UniqueFd& process) const {
    pollfd waits[2] = {{socket_.fd(), POLLIN, 0}, {process.get(), POLLIN, 0}};
    int ready = 0;
    do {
        ready = poll(waits, 2, -1);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 && waits[0].revents != 0;
}

Result<NewStub> Zygote::ask(std::uint64_t base, int fd) {
    const MutexLock lock(mutex_);
    STRATA_TRY_VOID(socket_.send(std::to_string(base), {fd}));
    NewStub made;
    bool answered = false, listens = base == 0 || !notify_;
    while (!answered || !listens) {
        if (answered && !hears_of(made.process)) {
            return Error(ErrorKind::Failed, "a stub process ended before it began");
        }
        io::Packet packet = STRATA_TRY(receive());
        int number = -EPROTO;
        (void)std::from_chars(packet.text.data(), packet.text.data() + packet.text.size(),
                              number);  // not a number: EPROTO
        if (number < 0) {
            return Error::from_errno("making a stub process", -number);
        }
        UniqueFd descriptor = packet.fds.empty() ? UniqueFd() : std::move(packet.fds[0]);
        if (number == 0 && base != 0) {  // the stub's own
            listens = true;
            made.listener = std::move(descriptor);
        } else {
            answered = true;
            made.pid = number;
            made.process = std::move(descriptor);
        }
    }
    return made;
}

Result<> Zygote::set_ram(int ram_fd) {
    (void)STRATA_TRY(ask(0, ram_fd));
    return ok();
}

Result<NewStub> Zygote::make_stub(int area_fd, std::uint64_t base) {
    auto made = STRATA_TRY(ask(base, area_fd));
    if (!made.process) {
        return Error(ErrorKind::Failed, "a stub process without a descriptor");
    }
    return made;
}

}  // namespace strata::engine::soft
