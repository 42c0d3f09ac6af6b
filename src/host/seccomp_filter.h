// SeccompFilter: building and loading the system call filters of the sandbox. Only src/host
// includes this.
#pragma once

#include "base/result.h"
#include "host/sandbox.h"

namespace strata::host {

/// The filter of the whole process. `may_open`: files can be opened for reading, because another
/// layer restricts which.
Result<> load_process_filter(const SandboxConfig& config, bool may_open);
/// The narrower filter of a vCPU thread.
Result<> load_vcpu_filter(const SandboxConfig& config);

}  // namespace strata::host
