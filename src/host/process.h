// ChildProcess: another program, started with chosen descriptors, watched by its pidfd.
//
// A ChildProcess owns what it started: destroying it kills and reaps the process, unless release()
// let it go. Only the descriptors that are named (and 0, 1, 2) reach the program. Threads: one
// owner at a time; spawn() from any thread of a multi-threaded process.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::host {

/// How a process ended.
struct ExitState {
    bool signalled = false;  ///< `value` is a signal, else an exit status
    int value = 0;
    /// "exit status 3", "signal 9 (Killed)".
    [[nodiscard]] std::string text() const;
    bool operator==(const ExitState&) const = default;
};

/// A descriptor of ours and the number under which the program finds it.
struct PassedFile {
    int fd = -1;
    int number = -1;
};

struct SpawnOptions {
    std::string program;                 ///< a path
    bool search_path = false;            ///< a `program` without a slash is looked up in $PATH
    std::vector<std::string> arguments;  ///< without argv[0]
    /// "NAME=value"; nothing: as ours.
    std::optional<std::vector<std::string>> environment;
    std::vector<PassedFile> files;
    bool inherit_standard_files =
        true;                  ///< 0, 1 and 2 that `files` does not list are ours, else /dev/null
    std::string folder;        ///< working directory; empty: ours
    bool new_session = false;  ///< setsid(): terminal signals do not reach it
    bool die_with_parent = true;  ///< SIGKILL when the thread that spawned it ends
};

class ChildProcess {
  public:
    /// Starts the program; answers after its exec succeeded. NotFound, PermissionDenied … if it did
    /// not.
    static Result<ChildProcess> spawn(const SpawnOptions& options);
    ChildProcess(ChildProcess&& other) noexcept;
    ChildProcess& operator=(ChildProcess&& other) noexcept;
    ChildProcess(const ChildProcess&) = delete;
    ChildProcess& operator=(const ChildProcess&) = delete;
    ~ChildProcess();

    [[nodiscard]] pid_t pid() const { return pid_; }
    /// Polls readable once the process ended; for event loops. Borrowed.
    [[nodiscard]] int pidfd() const { return pidfd_.get(); }

    /// Sends a signal; fine if the process has ended already.
    Result<> signal(int number);
    /// Waits until it ends. Answers the same again when called again.
    Result<ExitState> wait();
    /// As wait(), but nothing if it has not ended by `limit`.
    Result<std::optional<ExitState>> wait_for(std::chrono::milliseconds limit);
    /// Gives the process up: it lives on, and whoever is its parent reaps it.
    void release();

  private:
    ChildProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
    void end();
    pid_t pid_ = -1;
    UniqueFd pidfd_;
    std::optional<ExitState> ended_;
};

/// The path of the running program.
Result<std::string> own_program();

}  // namespace strata::host
