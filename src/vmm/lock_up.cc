// Lock-up: the choice of walls.
#include "vmm/lock_up.h"

#include <unistd.h>

namespace strata::vmm {
namespace {

// Above any user that a system makes; by process, so that two VMs are strangers to each other.
constexpr uid_t kFirstUid = 0x70000000;

void be_nobody(host::SandboxConfig& sandbox) {
    const auto own = kFirstUid + static_cast<uid_t>(getpid());
    sandbox.uid = own;
    sandbox.gid = own;
}

}  // namespace

host::SandboxConfig sandbox_for(const api::MachineConfig& config, bool kvm) {
    host::SandboxConfig sandbox;
    sandbox.network = !config.nets.empty();
    sandbox.executable_memory =
        true;  // the interpreter runs guest instructions from stubs, and helps KVM
    sandbox.kvm = kvm;
    if (sandbox.network) {
        sandbox.readable_files = {
            "/etc/resolv.conf"};  // the user-mode network's name server follows the host's
    }
    sandbox.signals_processes = !kvm;
    be_nobody(sandbox);
    return sandbox;
}

host::SandboxConfig helper_sandbox() {
    host::SandboxConfig sandbox;
    sandbox.network = false;
    sandbox.kvm = false;
    sandbox.makes_processes = true;
    be_nobody(sandbox);
    return sandbox;
}

}  // namespace strata::vmm
