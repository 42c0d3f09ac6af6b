// Session: a bounded run of random cases on host CPU, interpreter and translator, with a coverage
// table at its end.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace strata::differential {

struct SessionOptions {
    std::uint64_t first_seed = 1;
    std::uint64_t cases = 20000;      ///< at most this many
    bool show = false;                ///< print every case to standard error before it runs
    std::chrono::seconds budget{60};  ///< and no longer than this
    unsigned most_instructions = 4;   ///< in one case
    std::uint64_t stop_after = 5;     ///< differing cases
    bool interpreter = true, translator = true;
};

struct SessionResult {
    std::uint64_t cases = 0;
    std::uint64_t differing = 0;
    std::uint64_t faulted = 0;       ///< ended in something else than the final INT3
    std::uint64_t not_compared = 0;  ///< timed out on the host, or hit its own memory there
    std::string report;              ///< the differing cases, worded
    std::string coverage;            ///< a table: ISA set, instructions, executions
};

Result<SessionResult> run_session(const SessionOptions& options);

}  // namespace strata::differential
