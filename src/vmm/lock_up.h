// Lock-up: the sandbox of one VM's process: what host/sandbox.h offers, with this machine's needs.
#pragma once

#include <string>

#include "api/machine_config.h"
#include "base/result.h"
#include "host/sandbox.h"

namespace strata::vmm {

/// The walls for a machine: network only if it has an interface, /dev/kvm only with the KVM engine.
/// Root becomes a user of the VM's own.
host::SandboxConfig sandbox_for(const api::MachineConfig& config, bool kvm);
/// For the process that makes this one's stub processes: it sees nothing of the guest, opens
/// nothing, and is the same user, so that this one may signal them.
host::SandboxConfig helper_sandbox();

}  // namespace strata::vmm
