// Process: posix_spawn, and running tools to their end.
#include "cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>

#include <fmt/format.h>

#include "base/unique_fd.h"

// SAFETY: POSIX declares it for programs to use; unistd.h only with _GNU_SOURCE.
extern char** environ;  // NOLINT(readability-redundant-declaration)

namespace strata::cli {
namespace {

constexpr std::size_t kMaxToolOutput = 16U << 20;
constexpr std::size_t kLastWords = 3;

// posix_spawn's two objects with destructors.
struct SpawnSetup {
    posix_spawn_file_actions_t actions{};
    posix_spawnattr_t attributes{};
    SpawnSetup() {
        posix_spawn_file_actions_init(&actions);
        posix_spawnattr_init(&attributes);
    }
    SpawnSetup(const SpawnSetup&) = delete;
    SpawnSetup& operator=(const SpawnSetup&) = delete;
    ~SpawnSetup() {
        posix_spawn_file_actions_destroy(&actions);
        posix_spawnattr_destroy(&attributes);
    }
};

void arrange_fds(SpawnSetup& setup, const SpawnRequest& request) {
    for (int standard = 0; standard <= 2; ++standard) {
        const bool listed = std::any_of(request.fds.begin(), request.fds.end(),
                                        [&](const auto& pair) { return pair.second == standard; });
        if (!listed) {
            posix_spawn_file_actions_addopen(&setup.actions, standard, "/dev/null", standard == 0 ? O_RDONLY : O_WRONLY, 0);
        }
    }
    for (const auto& [ours, theirs] : request.fds) {
        posix_spawn_file_actions_adddup2(&setup.actions, ours, theirs);
    }
    if (!request.folder.empty()) {
        posix_spawn_file_actions_addchdir_np(&setup.actions, request.folder.c_str());
    }
}

void arrange_signals(SpawnSetup& setup, bool own_session) {
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&setup.attributes, &none);
    posix_spawnattr_setsigdefault(&setup.attributes, &all);
    posix_spawnattr_setflags(&setup.attributes,
                             static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                (own_session ? POSIX_SPAWN_SETSID : 0)));
}

// Cuts `buffer` into lines; the rest stays.
void take_lines(std::string& buffer, const std::function<void(std::string_view)>& take) {
    std::size_t end = 0;
    while ((end = buffer.find_first_of("\r\n")) != std::string::npos) {
        if (end > 0) {
            take(std::string_view(buffer).substr(0, end));
        }
        buffer.erase(0, end + 1);
    }
}

struct Pipe {
    UniqueFd read, write;
    static Result<Pipe> create() {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) != 0) {
            return Error::from_errno("pipe");
        }
        return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
    }
};

// Reads what is there into `buffer`; closes `fd` at its end.
void read_some(UniqueFd& fd, std::string& buffer, std::size_t limit) {
    std::array<char, 8192> chunk{};
    const ssize_t got = read(fd.get(), chunk.data(), chunk.size());
    if (got > 0) {
        if (buffer.size() < limit) {
            buffer.append(chunk.data(), static_cast<std::size_t>(got));
        }
    } else if (got == 0 || errno != EINTR) {
        fd.reset();
    }
}

}  // namespace

Result<Process> Process::spawn(const SpawnRequest& request) {
    SpawnSetup setup;
    arrange_fds(setup, request);
    arrange_signals(setup, request.own_session);
    std::vector<std::string> words = request.words;
    std::vector<char*> pointers;
    for (std::string& word : words) {
        pointers.push_back(word.data());
    }
    pointers.push_back(nullptr);
    pid_t pid = -1;
    const int status = posix_spawnp(&pid, pointers[0], &setup.actions, &setup.attributes, pointers.data(), environ);
    if (status != 0) {
        return Error::from_errno(fmt::format("starting '{}'", request.words[0]), status);
    }
    return Process(pid);
}

Process& Process::operator=(Process&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
}

Process::~Process() {
    if (pid_ > 0) {
        send_signal(SIGKILL);
        (void)wait();  // only to reap it
    }
}

void Process::send_signal(int number) const {
    if (pid_ > 0) {
        (void)kill(pid_, number);  // ESRCH cannot be: it is not reaped yet
    }
}

int Process::wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
}

int Process::try_wait() {
    int status = 0;
    if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) {
        return -1;
    }
    pid_ = -1;
    return status;
}

std::string describe_wait_status(int status) {
    if (WIFSIGNALED(status)) {
        return fmt::format("signal {} ({})", WTERMSIG(status), sigdescr_np(WTERMSIG(status)));
    }
    return fmt::format("exit status {}", WEXITSTATUS(status));
}

Result<std::string> run_tool(const ToolRequest& request) {
    Pipe output = STRATA_TRY(Pipe::create());
    Pipe errors = STRATA_TRY(Pipe::create());
    auto spawned = Process::spawn({.words = request.words,
                                   .fds = {{output.write.get(), 1}, {errors.write.get(), 2}},
                                   .folder = request.folder});
    if (!spawned) {
        if (spawned.error().kind() == ErrorKind::NotFound) {
            return Error{ErrorKind::NotFound,
                         fmt::format("the program '{}' is not installed: run tools/setup.sh image", request.words[0])};
        }
        return std::move(spawned).error();
    }
    Process child = std::move(*spawned);
    output.write.reset();
    errors.write.reset();

    std::string text;
    std::string lines;
    std::deque<std::string> last_words;
    const auto take = [&](std::string_view line) {
        last_words.emplace_back(line);
        if (last_words.size() > kLastWords) {
            last_words.pop_front();
        }
        if (request.on_line) {
            request.on_line(line);
        }
    };
    while (output.read.valid() || errors.read.valid()) {
        std::array<pollfd, 2> wait{{{output.read.get(), POLLIN, 0}, {errors.read.get(), POLLIN, 0}}};
        if (poll(wait.data(), wait.size(), -1) < 0) {
            continue;
        }
        if (wait[0].revents != 0) {
            read_some(output.read, text, kMaxToolOutput);
        }
        if (wait[1].revents != 0) {
            read_some(errors.read, lines, kMaxToolOutput);
            take_lines(lines, take);
        }
    }
    const int status = child.wait();
    if (status != 0) {
        std::string why;
        for (const std::string& line : last_words) {
            why += fmt::format("{}{}", why.empty() ? "" : " / ", line);
        }
        return Error{ErrorKind::Failed, fmt::format("{} ended with {}: {}", request.words[0], describe_wait_status(status),
                                                    why.empty() ? "it said nothing" : why)};
    }
    return text;
}

}  // namespace strata::cli
