// ChildProcess: fork, exec, and the pidfd.
//
// Between fork and exec only async-signal-safe calls are made: other threads' locks may be held for
// ever in the copy. The child reports a failed exec through a pipe that a good exec closes.
#include "host/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace strata::host {
namespace {

constexpr int kExecFailed = 127;
constexpr std::size_t kMaxFiles = 1024;

/// What the child needs, made before the fork.
struct Plan {
    const char* program = nullptr;
    const char* folder = nullptr;
    std::vector<char*> arguments;
    std::vector<char*> environment;
    std::vector<PassedFile> files;
    bool new_session = false;
    bool die_with_parent = false;
    pid_t parent = 0;
    int report = -1;
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
    std::vector<char*> result;
    result.reserve(texts.size() + 1);
    for (std::string& text : texts) {
        result.push_back(text.data());
    }
    result.push_back(nullptr);
    return result;
}

/// Child: reports errno and ends.
[[noreturn]] void fail(int report) {
    const int error = errno;
    // The parent reads nothing if this fails, and then sees the exit status.
    [[maybe_unused]] const auto written = ::write(report, &error, sizeof(error));
    ::_exit(kExecFailed);
}

/// Child: moves descriptors to their numbers; everything else closes at exec.
void place_files(Plan& plan) {
    int above = 3;
    for (const PassedFile& file : plan.files) {
        above = std::max(above, file.number + 1);
    }
    // First out of the way of all targets, then into place: sources and targets may overlap.
    plan.report = ::fcntl(plan.report, F_DUPFD_CLOEXEC, above);
    if (plan.report < 0) {
        ::_exit(kExecFailed);
    }
    for (PassedFile& file : plan.files) {
        file.fd = ::fcntl(file.fd, F_DUPFD_CLOEXEC, above);
        if (file.fd < 0) {
            fail(plan.report);
        }
    }
    if (::syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) != 0) {
        fail(plan.report);
    }
    for (const PassedFile& file : plan.files) {
        if (::dup2(file.fd, file.number) < 0) {
            fail(plan.report);
        }
    }
}

[[noreturn]] void become(Plan& plan) {
    place_files(plan);
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; ++number) {
        (void)::sigaction(number, &standard, nullptr);  // fails for the few that cannot be changed
    }
    sigset_t none;
    ::sigemptyset(&none);
    (void)::sigprocmask(SIG_SETMASK, &none, nullptr);  // cannot fail with these arguments
    if (plan.folder != nullptr && ::chdir(plan.folder) != 0) {
        fail(plan.report);
    }
    if (plan.new_session && ::setsid() < 0) {
        fail(plan.report);
    }
    if (plan.die_with_parent) {
        if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
            fail(plan.report);
        }
        if (::getppid() != plan.parent) {
            ::_exit(kExecFailed);  // it ended before the wish was on record
        }
    }
    ::execve(plan.program, plan.arguments.data(), plan.environment.data());
    fail(plan.report);
}

/// A real-time signal has a number only.
const char* describe_signal(int number) {
    const char* text = ::sigdescr_np(number);
    return text != nullptr ? text : "unknown";
}

ExitState state_of(const siginfo_t& info) {
    return {info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED, info.si_status};
}

Result<> check(const SpawnOptions& options) {
    if (options.files.size() > kMaxFiles) {
        return Error{ErrorKind::InvalidArgument, "too many descriptors to pass"};
    }
    for (const PassedFile& file : options.files) {
        if (file.fd < 0 || file.number < 0 || file.number > 65'535) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("cannot pass descriptor {} as {}", file.fd, file.number)};
        }
    }
    return ok();
}

/// Adds /dev/null for each of 0, 1 and 2 that `files` lacks, if that is wanted; answers what must
/// stay open until the fork.
Result<UniqueFd> close_standard_files(const SpawnOptions& options, std::vector<PassedFile>& files) {
    if (options.inherit_standard_files) {
        return UniqueFd();
    }
    UniqueFd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!nothing) {
        return Error::from_errno("cannot open /dev/null");
    }
    for (int standard = 0; standard <= 2; ++standard) {
        if (std::ranges::find(options.files, standard, &PassedFile::number) ==
            options.files.end()) {
            files.push_back({nothing.get(), standard});
        }
    }
    return nothing;
}

/// As a shell would find it: the first folder of $PATH that has an executable file of that name.
std::string find_program(const std::string& name) {
    const char* path =
        ::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): nobody here changes the environment
    const std::string folders = path != nullptr ? path : "/usr/bin:/bin";
    for (std::size_t begin = 0; begin <= folders.size();) {
        const std::size_t end = std::min(folders.find(':', begin), folders.size());
        std::string candidate =
            fmt::format("{}/{}", end == begin ? "." : folders.substr(begin, end - begin), name);
        if (::access(candidate.c_str(), X_OK) == 0) {
            return candidate;
        }
        begin = end + 1;
    }
    return name;  // execve() says that there is none
}

}  // namespace

std::string ExitState::text() const {
    return signalled ? fmt::format("signal {} ({})", value, describe_signal(value))
                     : fmt::format("exit status {}", value);
}

Result<ChildProcess> ChildProcess::spawn(const SpawnOptions& options) {
    STRATA_TRY_VOID(check(options));
    std::vector<std::string> arguments{options.program};
    arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
    std::vector<std::string> environment = options.environment.value_or(std::vector<std::string>());
    Plan plan;
    const bool search = options.search_path && options.program.find('/') == std::string::npos;
    const std::string program = search ? find_program(options.program) : options.program;
    plan.program = program.c_str();
    plan.folder = options.folder.empty() ? nullptr : options.folder.c_str();
    plan.arguments = pointers(arguments);
    plan.environment = pointers(environment);
    if (!options.environment) {
        plan.environment.clear();
        for (char** entry = environ; *entry != nullptr; ++entry) {
            plan.environment.push_back(*entry);
        }
        plan.environment.push_back(nullptr);
    }
    plan.files = options.files;
    const UniqueFd nothing = STRATA_TRY(close_standard_files(options, plan.files));
    plan.new_session = options.new_session;
    plan.die_with_parent = options.die_with_parent;
    plan.parent = ::getpid();
    std::array<int, 2> report{};
    if (::pipe2(report.data(), O_CLOEXEC) != 0) {
        return Error::from_errno("cannot make a pipe");
    }
    const UniqueFd reader(report[0]);
    UniqueFd writer(report[1]);
    plan.report = writer.get();
    const pid_t pid = ::fork();
    if (pid == 0) {
        become(plan);
    }
    if (pid < 0) {
        return Error::from_errno("cannot start a process");
    }
    writer.reset();
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U)));
    const int pidfd_error = errno;
    ChildProcess child(pid, std::move(pidfd));
    if (!child.pidfd_) {
        child.end();
        return Error::from_errno("cannot watch the new process", pidfd_error);
    }
    int error = 0;
    ssize_t got = 0;
    do {
        got = ::read(reader.get(), &error, sizeof(error));
    } while (got < 0 && errno == EINTR);
    if (got == sizeof(error)) {
        child.end();
        return Error::from_errno(fmt::format("cannot run '{}'", options.program), error);
    }
    return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)), ended_(other.ended_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
    if (this != &other) {
        end();
        pid_ = std::exchange(other.pid_, -1);
        pidfd_ = std::move(other.pidfd_);
        ended_ = other.ended_;
    }
    return *this;
}

ChildProcess::~ChildProcess() {
    end();
}

/// Kills and reaps what still runs.
void ChildProcess::end() {
    if (pid_ < 0 || ended_) {
        return;
    }
    (void)::kill(pid_, SIGKILL);  // it is our unreaped child, so the number is still its own
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
}

void ChildProcess::release() {
    pid_ = -1;
    pidfd_.reset();
}

Result<> ChildProcess::signal(int number) {
    if (pid_ < 0 || ended_) {
        return ok();
    }
    if (::kill(pid_, number) != 0 && errno != ESRCH) {
        return Error::from_errno(fmt::format("cannot send signal {} to process {}", number, pid_));
    }
    return ok();
}

Result<ExitState> ChildProcess::wait() {
    if (ended_) {
        return *ended_;
    }
    if (pid_ < 0) {
        return Error{ErrorKind::WrongState, "the process was released"};
    }
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED) != 0) {
        if (errno != EINTR) {
            return Error::from_errno(fmt::format("cannot wait for process {}", pid_));
        }
    }
    ended_ = state_of(info);
    return *ended_;
}

Result<std::optional<ExitState>> ChildProcess::wait_for(std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!ended_ && pid_ >= 0) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd state{pidfd_.get(), POLLIN, 0};
        const auto bounded = std::clamp<std::chrono::milliseconds::rep>(left.count(), 0, INT_MAX);
        const int count = ::poll(&state, 1, static_cast<int>(bounded));
        if (count > 0) {
            break;
        }
        if (count < 0 && errno != EINTR) {
            return Error::from_errno(fmt::format("cannot watch process {}", pid_));
        }
        if (left.count() <= 0) {
            return std::optional<ExitState>();
        }
    }
    return std::optional(STRATA_TRY(wait()));
}

Result<std::string> own_program() {
    std::string path(PATH_MAX, '\0');
    const ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size());
    if (size < 0) {
        return Error::from_errno("cannot find the running program");
    }
    path.resize(static_cast<std::size_t>(size));
    return path;
}

}  // namespace strata::host
