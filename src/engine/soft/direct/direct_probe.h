// DirectProbe: whether this host lets guest user code run in stub processes.
#pragma once

#include "base/result.h"

namespace strata::engine::soft {

/// Makes a stub, runs one system call of its in vain, and ends it again: some milliseconds. The
/// error says what the host refuses. Forks: with one thread alive.
Result<> probe_direct_execution();

}  // namespace strata::engine::soft
