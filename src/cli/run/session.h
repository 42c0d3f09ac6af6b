// Session: one run of a machine, seen from the command line: the VMM process, serial port and
// console, the terminal, signals, the time limit.
//
//   starting -> running [-> asked] -> ending -> over
//
// `asked`: at the first Ctrl-], SIGINT or SIGTERM the guest's power button was pressed and it
// listens; it has the grace period to power off. `ending` begins with the VMM's exited event, or
// when we tell it to stop (the second Ctrl-] or signal, the first if the guest does not listen, the
// end of the grace period, SIGHUP, the time limit, standard output closed); it lasts until the VMM
// process is gone and its last serial output was passed on, but never longer than a few seconds:
// then the VMM is killed. Everything happens on the calling thread's EventLoop.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "api/machine_config.h"
#include "api/option_text.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/run/folder_server.h"

namespace strata::cli {

struct SessionRequest {
    api::MachineConfig config;
    std::vector<UniqueFd> fds;                    ///< what the config's descriptor places mean
    std::map<std::size_t, FolderDisk> folders{};  ///< by disk: to be served to it
    api::SerialTarget serial;
    api::SerialTarget console;
    std::optional<std::chrono::seconds> time_limit;
    std::chrono::seconds stop_grace{
        0};  ///< how long a guest that was asked may take to power off; 0: it is not asked
    std::string control;   ///< path of the control socket; empty: none
    bool as_json = false;  ///< events as JSON lines on standard error
};

/// Runs the machine to its end. Answers the exit status, or what went wrong (TimedOut for the time
/// limit).
Result<int> run_session(SessionRequest request);

}  // namespace strata::cli
