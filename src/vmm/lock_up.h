// Lock-up: the sandbox of one VM's process: what host/sandbox.h offers, with this machine's needs.
#pragma once

#include <string>

#include "api/machine_config.h"
#include "base/result.h"
#include "host/sandbox.h"

namespace strata::vmm {

/// The walls for a machine: network only if it has an interface, /dev/kvm only with the KVM engine. Root becomes a user of the VM's own.
host::SandboxConfig sandbox_for(const api::MachineConfig& config, bool kvm);

}  // namespace strata::vmm
