// Sandbox: what still works inside and what does not, tried in a forked process each.
#include "host/sandbox.h"

#include <cerrno>
#include <functional>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "io/event_loop.h"

namespace strata::host {
namespace {

/// Runs `body` in a child; its answer is the exit status, 200 + n for a death by signal n.
int in_child(const std::function<int()>& body) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::_exit(body());
    }
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 200 + WTERMSIG(status) : WEXITSTATUS(status);
}

constexpr int kNoSandbox = 99;

/// As in_child(), inside the sandbox.
int inside(const SandboxConfig& config, const std::function<int()>& body) {
    return in_child([&] { return enter_sandbox(config).ok() ? body() : kNoSandbox; });
}

int error_of(bool failed) {
    return failed ? errno : 0;
}

// Not as if there were other threads: two walls would be left out.
TEST(SandboxTest, NotKnowingTheThreadsIsAnError) {
    const auto outcome = [] {
        rlimit few{};
        (void)::getrlimit(RLIMIT_NOFILE, &few);
        const int last = ::dup(0);
        few.rlim_cur = few.rlim_max = static_cast<rlim_t>(last) + 1;
        return ::setrlimit(RLIMIT_NOFILE, &few) == 0 && !enter_sandbox({}).ok() ? 1 : 0;
    };
    EXPECT_EQ(in_child(outcome), 1);
}

TEST(SandboxTest, OrdinaryWorkGoesOn) {
    EXPECT_EQ(inside({},
                     [] {
                         auto loop = io::EventLoop::create();
                         int sum = 0;
                         std::thread thread([&] { sum = 40; });
                         thread.join();
                         (*loop)->post([&] { sum += 2; });
                         (*loop)->run_once(std::chrono::milliseconds(1));
                         return sum;
                     }),
              42);
}

TEST(SandboxTest, NotificationsOfProcessesNeedTheirSwitch) {
    const auto ask = [] {
        return error_of(::ioctl(-1, SECCOMP_IOCTL_NOTIF_RECV, nullptr) < 0) +
               1000 * error_of(::ioctl(-1, SECCOMP_IOCTL_NOTIF_SEND, nullptr) < 0);
    };
    SandboxConfig config;
    EXPECT_EQ(inside(config, [&] { return ask() == EPERM * 1001 ? 1 : 0; }), 1);
    config.signals_processes = true;
    EXPECT_EQ(inside(config, [&] { return ask() == EBADF * 1001 ? 1 : 0; }), 1);
}

TEST(SandboxTest, FilesCannotBeWrittenOrFound) {
    EXPECT_NE(inside({},
                     [] {
                         return error_of(
                             ::open("/tmp/strata-sandbox-test", O_CREAT | O_WRONLY, 0600) < 0);
                     }),
              0);
    EXPECT_NE(inside({}, [] { return error_of(::open("/etc/passwd", O_RDONLY) < 0); }), 0);
}

TEST(SandboxTest, NamedFileStaysReadable) {
    SandboxConfig config;
    config.readable_files = {"/etc/passwd", "/nonexistent"};
    const int result = in_child([&] {
        const auto report = enter_sandbox(config);
        if (!report.ok() || (!report->landlock && !report->namespaces)) {
            return kNoSandbox;
        }
        return error_of(::open("/etc/passwd", O_RDONLY) < 0) +
               2 * error_of(::open("/etc/group", O_RDONLY) < 0);
    });
    if (result == kNoSandbox) {
        GTEST_SKIP() << "this host offers neither Landlock nor namespaces";
    }
    EXPECT_TRUE(result == 2 * EACCES || result == 2 * ENOENT) << result;
}

TEST(SandboxTest, NoProgramCanBeRun) {
    EXPECT_EQ(inside({}, [] { return error_of(::execl("/bin/true", "true", nullptr) < 0); }),
              EPERM);
    EXPECT_EQ(inside({}, [] { return error_of(::fork() < 0); }), EPERM);
}

TEST(SandboxTest, OtherProcessesCannotBeSignalled) {
    EXPECT_EQ(inside({}, [] { return error_of(::kill(::getppid(), 0) < 0); }), EPERM);
}

TEST(SandboxTest, SocketsFollowTheConfiguration) {
    EXPECT_EQ(inside({}, [] { return error_of(::socket(AF_INET, SOCK_STREAM, 0) < 0); }), 0);
    EXPECT_EQ(inside({}, [] { return error_of(::socket(AF_NETLINK, SOCK_RAW, 0) < 0); }), EPERM);
    SandboxConfig without;
    without.network = false;
    EXPECT_EQ(inside(without, [] { return error_of(::socket(AF_INET, SOCK_STREAM, 0) < 0); }),
              EPERM);
}

// libslirp takes forwarded connections with accept(2), not accept4(2).
TEST(SandboxTest, AnOpenListenerCanAccept) {
    EXPECT_EQ(
        inside({},
               [] {
                   const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
                   const UniqueFd peer(::socket(AF_INET, SOCK_STREAM, 0));
                   sockaddr_in address{};
                   address.sin_family = AF_INET;
                   address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
                   socklen_t size = sizeof(address);
                   auto* raw =
                       reinterpret_cast<sockaddr*>(&address);  // SAFETY: the socket API's own cast
                   if (::bind(listener.get(), raw, size) != 0 || ::listen(listener.get(), 1) != 0 ||
                       ::getsockname(listener.get(), raw, &size) != 0 ||
                       ::connect(peer.get(), raw, size) != 0) {
                       return errno;
                   }
                   const UniqueFd taken(::accept(listener.get(), nullptr, nullptr));
                   return error_of(!taken);
               }),
        0);
}

TEST(SandboxTest, ExecutableMemoryFollowsTheConfiguration) {
    const auto map = [] {
        return error_of(::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                               -1, 0) == MAP_FAILED);
    };
    EXPECT_EQ(inside({}, map), 0);
    SandboxConfig without;
    without.executable_memory = false;
    EXPECT_EQ(inside(without, map), EPERM);
}

TEST(SandboxTest, RingsAreOnlyEnteredAndNeverMade) {
    const auto enter = [](unsigned flags, const void* mask) {
        return error_of(::syscall(SYS_io_uring_enter, -1, 0, 0, flags, mask, 8) < 0);
    };
    const auto tried = [&] {
        static const std::uint64_t mask = 0;
        io_uring_params parameters{};
        const bool made = ::syscall(SYS_io_uring_setup, 1, &parameters) >= 0 || errno != EPERM;
        const bool registered =
            ::syscall(SYS_io_uring_register, -1, 0, nullptr, 0) >= 0 || errno != EPERM;
        const bool more = enter(IORING_ENTER_SQ_WAKEUP, nullptr) != EPERM ||
                          enter(IORING_ENTER_EXT_ARG, nullptr) != EPERM || enter(0, &mask) != EPERM;
        return (made ? 1 : 0) + (registered ? 2 : 0) + (more ? 4 : 0);
    };
    SandboxConfig config;
    EXPECT_EQ(inside(config, [&] { return tried() + (enter(0, nullptr) == EPERM ? 0 : 8); }), 0);
    config.io_uring = true;
    EXPECT_EQ(inside(config,
                     [&] {
                         const bool lets = enter(0, nullptr) != EPERM &&
                                           enter(IORING_ENTER_GETEVENTS, nullptr) != EPERM;
                         return tried() + (lets ? 0 : 8);
                     }),
              0);
}

TEST(SandboxTest, ViolationCanKill) {
    SandboxConfig config;
    config.violation = Violation::Kill;
    EXPECT_EQ(inside(config, [] { return error_of(::chdir("/") < 0); }), 200 + SIGSYS);
}

TEST(SandboxTest, LimitsAreSet) {
    SandboxConfig config;
    config.max_descriptors = 64;
    EXPECT_EQ(inside(config,
                     [] {
                         rlimit core{};
                         rlimit files{};
                         (void)::getrlimit(RLIMIT_CORE, &core);
                         (void)::getrlimit(RLIMIT_NOFILE, &files);
                         return core.rlim_max == 0 && files.rlim_max == 64 ? 1 : 0;
                     }),
              1);
}

TEST(SandboxTest, RootBecomesTheNamedUser) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "needs root";
    }
    SandboxConfig config;
    config.uid = 65'534;
    config.gid = 65'534;
    EXPECT_EQ(
        inside(config,
               [] {
                   return ::getuid() == 65'534 && ::getegid() == 65'534 && ::getgid() == 65'534 ? 1
                                                                                                : 0;
               }),
        1);
}

TEST(SandboxTest, ReportNamesTheLayers) {
    EXPECT_EQ(in_child([] {
                  const auto report = enter_sandbox({});
                  return report.ok() && report->text.starts_with("seccomp") ? 1 : 0;
              }),
              1);
}

TEST(SandboxTest, VcpuThreadIsNarrowerThanTheProcess) {
    EXPECT_EQ(inside({},
                     [] {
                         int in_vcpu = 0;
                         std::thread thread([&] {
                             if (!lock_vcpu_thread({}).ok()) {
                                 in_vcpu = kNoSandbox;
                                 return;
                             }
                             in_vcpu = error_of(::socket(AF_INET, SOCK_STREAM, 0) < 0);
                         });
                         thread.join();
                         const int outside = error_of(::socket(AF_INET, SOCK_STREAM, 0) < 0);
                         return in_vcpu == EPERM && outside == 0 ? 1 : in_vcpu;
                     }),
              1);
}

}  // namespace
}  // namespace strata::host
