// VcpuState: between KVM's structures and ArchState.
#pragma once

#include "arch/x86/arch_state.h"
#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

/// How much of the state moves.
enum class StateScope {
    Whole,
    Core,  ///< registers, segments, control and debug registers, vector state, events: what one
           ///< instruction needs
};

/// Reads a vCPU that is not running. `msrs`: which ones belong to a whole state.
Result<> read_state(const KvmFd& vcpu, StateScope scope, const std::vector<std::uint32_t>& msrs,
                    arch::x86::ArchState& state);
/// Writes it. An MSR that this KVM does not take is an error that names it.
Result<> write_state(const KvmFd& vcpu, StateScope scope, const arch::x86::ArchState& state);

/// Writes the parts of the core state in which `after` differs from `before`, which is what KVM
/// has.
Result<> write_core_changes(const KvmFd& vcpu, const arch::x86::ArchState& before,
                            const arch::x86::ArchState& after);

/// One MSR, with the host's rights. Failed if KVM does not know it.
Result<std::uint64_t> read_msr(const KvmFd& vcpu, std::uint32_t index);
Result<> write_msr(const KvmFd& vcpu, std::uint32_t index, std::uint64_t value);

}  // namespace strata::engine::kvm
