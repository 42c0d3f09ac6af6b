// Session: one run of a machine, seen from the command line: the VMM process, serial port and console, the terminal, signals, the time limit.
//
//   starting -> running -> ending -> over
//
// `ending` begins with the VMM's exited event, or when we ask it to stop (Ctrl-], a signal, the time limit, standard output closed); it
// lasts until the VMM process is gone and its last serial output was passed on, but never longer than a few seconds: then the VMM is
// killed. Everything happens on the calling thread's EventLoop.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "api/machine_config.h"
#include "api/option_text.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::cli {

struct SessionRequest {
    api::MachineConfig config;
    std::vector<UniqueFd> fds;  ///< what the config's descriptor places mean
    api::SerialTarget serial;
    api::SerialTarget console;
    std::optional<std::chrono::seconds> time_limit;
    bool as_json = false;       ///< events as JSON lines on standard error
};

/// Runs the machine to its end. Answers the exit status, or what went wrong (TimedOut for the time limit).
Result<int> run_session(SessionRequest request);

/// The program strata-vmm, which lies beside this one. NotFound if it does not.
Result<std::string> vmm_program();

}  // namespace strata::cli
