// Process: the programs that the command line starts: the VMM, and Debian's tools when it builds images.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace strata::cli {

struct SpawnRequest {
    std::vector<std::string> words;              ///< program (looked up in PATH if it has no slash) and arguments
    std::vector<std::pair<int, int>> fds = {};        ///< (ours, the child's number); 0, 1, 2 not listed are /dev/null
    std::string folder = {};                     ///< working directory; empty: ours
    bool own_session = false;                    ///< away from our terminal and its signals
};

/// A child, not yet waited for. Destroying it kills and reaps it.
class Process {
  public:
    static Result<Process> spawn(const SpawnRequest& request);
    Process(Process&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
    Process& operator=(Process&& other) noexcept;
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;
    ~Process();

    [[nodiscard]] pid_t pid() const { return pid_; }
    void send_signal(int number) const;
    /// Waits for the end: the raw status of waitpid(2).
    int wait();
    /// The same if it has ended already; -1 otherwise.
    int try_wait();

  private:
    explicit Process(pid_t pid) : pid_(pid) {}
    pid_t pid_ = -1;
};

/// "exit status 3" or "signal 11 (Segmentation fault)", of a raw wait status.
std::string describe_wait_status(int status);

struct ToolRequest {
    std::vector<std::string> words;
    std::string folder = {};
    /// Each line of the tool's standard error, as it comes; the last ones also become part of the error.
    std::function<void(std::string_view)> on_line = {};
};

/// Runs a tool to its end and answers its standard output (at most 16 MiB). NotFound if it is not installed; Failed with its
/// last words if it fails.
Result<std::string> run_tool(const ToolRequest& request);

}  // namespace strata::cli
