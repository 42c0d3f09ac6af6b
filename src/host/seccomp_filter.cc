// SeccompFilter: the lists of system calls.
//
// An allowlist each: what is not listed is refused. Calls whose arguments decide have rules of
// their own. Keep entries sorted by purpose; a new entry names who needs it.
#include "host/seccomp_filter.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <initializer_list>
#include <memory>
#include <span>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace strata::host {
namespace {

/// What every thread may do: memory, locks, time, signals of its own, I/O on open descriptors.
constexpr std::array kCommon{
    // Memory: allocator, guest RAM.
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(membarrier),
    SCMP_SYS(mincore),
    // Each vCPU thread's memory for instruction stubs, mapped twice; the gs base of translated
    // code.
    SCMP_SYS(memfd_create),
    SCMP_SYS(ftruncate),
    SCMP_SYS(arch_prctl),
    // Locks, scheduling, time.
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getcpu),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    // I/O on descriptors that are open.
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(close),
    SCMP_SYS(lseek),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    // Sockets that are open.
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    // EventLoop: watches are changed by vCPU threads too.
    SCMP_SYS(epoll_ctl),
    // Signals, ends, identity.
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigpending),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getrandom),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
};

constexpr int kCachestat = 451;  ///< since Linux 6.5: the library may not know it

/// What the other threads may do besides.
constexpr std::array kProcess{
    // Disks.
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(sync_file_range),
    kCachestat,
    SCMP_SYS(fallocate),
    SCMP_SYS(statx),
    SCMP_SYS(flock),
    // Descriptors and waiting.
    SCMP_SYS(fcntl),
    SCMP_SYS(dup),
    SCMP_SYS(dup3),
    SCMP_SYS(eventfd2),
    SCMP_SYS(pipe2),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(timerfd_gettime),
    SCMP_SYS(signalfd4),
    // Sockets that are open: control connection, serial listener, user-mode network.
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(recvmmsg),
    SCMP_SYS(sendmmsg),
    // Threads.
    SCMP_SYS(set_tid_address),
    SCMP_SYS(sched_getparam),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(sched_setaffinity),
    SCMP_SYS(seccomp),
    // Identity and accounting.
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getppid),
    SCMP_SYS(getrusage),
    SCMP_SYS(times),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
};

/// libslirp.
constexpr std::array kNetwork{SCMP_SYS(bind), SCMP_SYS(connect), SCMP_SYS(listen)};
constexpr std::array kSocketFamilies{AF_INET, AF_INET6};

/// All flags of io_uring_enter() but IORING_ENTER_GETEVENTS.
constexpr std::uint64_t kOtherEnterFlags = 0xfffffffe;

/// ioctl()s of files, terminals and block devices. FIONBIO and TCGETS: what C libraries ask of any
/// descriptor.
constexpr std::array<unsigned long, 9> kIoctls{
    0x5401 /* TCGETS */,
    0x5413 /* TIOCGWINSZ */,
    FIONREAD,
    FIONBIO,
    BLKGETSIZE64,
    BLKSSZGET,
    BLKDISCARD,
    BLKZEROOUT,
    BLKFLSBUF,
};
constexpr unsigned long kKvmIoctls = 0xae00;
constexpr unsigned long kIoctlTypeMask = 0xff00;

constexpr std::array kPrctls{PR_SET_NAME,    PR_GET_NAME,      PR_SET_TIMERSLACK,
                             PR_SET_SECCOMP, PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS,
                             0x53564d41 /* PR_SET_VMA */};

/// What it takes to turn a new process into one that runs guest code.
constexpr std::array kMakesProcesses{SCMP_SYS(dup2), SCMP_SYS(close_range)};

/// A filter under construction; the first mistake is kept.
class Builder {
  public:
    explicit Builder(Violation violation) : context_(::seccomp_init(default_action(violation))) {
        error_ = context_ == nullptr ? ENOMEM : 0;
    }
    ~Builder() { ::seccomp_release(context_); }
    Builder(const Builder&) = delete;
    Builder& operator=(const Builder&) = delete;

    void allow(std::span<const int> calls) {
        for (const int call : calls) {
            allow(call, {});
        }
    }
    void allow(int call, std::initializer_list<scmp_arg_cmp> when) {
        add(SCMP_ACT_ALLOW, call, when);
    }
    void refuse(int call, int error) {
        add(SCMP_ACT_ERRNO(static_cast<unsigned>(error)), call, {});
    }

    Result<> load(bool all_threads) {
        keep(::seccomp_attr_set(context_, SCMP_FLTATR_CTL_TSYNC, all_threads ? 1 : 0));
        keep(::seccomp_attr_set(context_, SCMP_FLTATR_CTL_OPTIMIZE,
                                2));  // a binary tree, not a long chain
        if (error_ == 0) {
            keep(::seccomp_load(context_));
        }
        if (error_ != 0) {
            return Error::from_errno("cannot load the system call filter", error_);
        }
        return ok();
    }

  private:
    static std::uint32_t default_action(Violation violation) {
        return violation == Violation::Kill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM);
    }
    void add(std::uint32_t action, int call, std::initializer_list<scmp_arg_cmp> when) {
        if (error_ == 0) {
            keep(::seccomp_rule_add_array(context_, action, call,
                                          static_cast<unsigned>(when.size()), when.begin()));
        }
    }
    void keep(int result) {
        if (result < 0 && error_ == 0) {
            error_ = -result;
        }
    }
    scmp_filter_ctx context_;
    int error_ = 0;
};

scmp_arg_cmp equal(unsigned argument, std::uint64_t value) {
    return {argument, SCMP_CMP_EQ, value, 0};
}
scmp_arg_cmp masked(unsigned argument, std::uint64_t mask, std::uint64_t value) {
    return {argument, SCMP_CMP_MASKED_EQ, mask, value};
}

/// mmap and mprotect, with or without PROT_EXEC.
void allow_mappings(Builder& filter, const SandboxConfig& config) {
    for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)}) {
        if (config.executable_memory) {
            filter.allow(call, {});
        } else {
            filter.allow(call, {masked(2, PROT_EXEC, 0)});
        }
    }
}

void allow_ioctls(Builder& filter, const SandboxConfig& config) {
    for (const unsigned long request : kIoctls) {
        filter.allow(SCMP_SYS(ioctl), {equal(1, request)});
    }
    if (config.kvm) {
        filter.allow(SCMP_SYS(ioctl), {masked(1, kIoctlTypeMask, kKvmIoctls)});
    }
}

/// What both kinds of threads need with conditions.
void allow_common(Builder& filter, const SandboxConfig& config) {
    filter.allow(kCommon);
    allow_mappings(filter, config);
    allow_ioctls(filter, config);
    filter.allow(SCMP_SYS(tgkill),
                 {equal(0, static_cast<std::uint64_t>(::getpid()))});  // kicks, abort()
    if (config.signals_processes) {
        for (const int number : {SIGUSR1, SIGKILL}) {
            filter.allow(SCMP_SYS(pidfd_send_signal),
                         {equal(1, static_cast<std::uint64_t>(number)), equal(2, 0)});
        }
        constexpr unsigned long kSetFlags = SECCOMP_IOW(4, std::uint64_t);
        for (const unsigned long request :
             {SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, kSetFlags}) {
            filter.allow(SCMP_SYS(ioctl), {equal(1, request)});
        }
    }
}

void allow_threads(Builder& filter) {
    filter.allow(SCMP_SYS(clone), {masked(0, CLONE_THREAD, CLONE_THREAD)});
    filter.refuse(
        SCMP_SYS(clone3),
        ENOSYS);  // its flags lie in memory, out of sight; the C library falls back to clone
    filter.allow(SCMP_SYS(prlimit64), {equal(2, 0)});  // asking only
    for (const int option : kPrctls) {
        filter.allow(SCMP_SYS(prctl), {equal(0, static_cast<std::uint64_t>(option))});
    }
}

void allow_new_processes(Builder& filter) {
    filter.allow(kMakesProcesses);
    filter.allow(SCMP_SYS(clone), {equal(0, CLONE_PIDFD | SIGCHLD)});
    filter.allow(SCMP_SYS(prctl), {equal(0, PR_SET_TSC)});
}

void allow_files(Builder& filter, bool may_open) {
    if (may_open) {
        filter.allow(SCMP_SYS(openat), {masked(2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)});
    }
    filter.refuse(SCMP_SYS(access), EACCES);
    filter.refuse(SCMP_SYS(readlink), EACCES);
}

void allow_network(Builder& filter) {
    filter.allow(kNetwork);
    for (const int family : kSocketFamilies) {
        filter.allow(SCMP_SYS(socket), {equal(0, static_cast<std::uint64_t>(family))});
    }
}

}  // namespace

Result<> load_process_filter(const SandboxConfig& config, bool may_open) {
    Builder filter(config.violation);
    allow_common(filter, config);
    filter.allow(kProcess);
    allow_threads(filter);
    allow_files(filter, may_open);
    if (config.network) {
        allow_network(filter);
    }
    if (config.makes_processes) {
        allow_new_processes(filter);
    }
    if (config.io_uring) {
        // Submit and wait, without a signal mask or anything else that lies in memory.
        filter.allow(SCMP_SYS(io_uring_enter), {masked(3, kOtherEnterFlags, 0), equal(4, 0)});
    }
    return filter.load(true);
}

Result<> load_vcpu_filter(const SandboxConfig& config) {
    Builder filter(config.violation);
    allow_common(filter, config);
    return filter.load(false);
}

}  // namespace strata::host
