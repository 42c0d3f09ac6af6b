// SystemCallProbe: whether SYSCALL in a guest's user mode arrives in its supervisor mode.
//
// SYSCALL loads RIP, RCX, R11 and RFLAGS, and CS and SS with those of ring 0 (SDM 2). KVM on hosts
// without hardware virtualisation (PVM) runs user mode on the processor itself and was seen to
// leave CS and SS as they were: the guest stays in ring 3 at its entry point, which
// SystemCallMender cures.
#pragma once

#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

/// Runs one SYSCALL in ring 3 of a guest in long mode: true if it arrives in ring 0. An error if
/// KVM refused something or the guest did not get as far.
Result<bool> system_calls_reach_ring_0(const KvmFd& device, int vcpu_mapping_size);

}  // namespace strata::engine::kvm
