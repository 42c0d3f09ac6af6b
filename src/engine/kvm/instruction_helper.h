// InstructionHelper: executes the one instruction that KVM's emulator could not, with Strata's
// interpreter.
//
// KVM stops with "internal error, suberror 1" at an instruction that it has to emulate and does not
// know: AVX accesses to device memory on every host; XRSTOR, INT3, SSE moves and others where it
// emulates whole guests. The vCPU's registers are loaded into a CpuState of our own over the same
// RAM, the interpreter takes one step, what changed goes back, and the guest goes on.
//
// Limits: an xAPIC access by such an instruction finds no device (the local APIC is the kernel's
// and takes ordinary moves itself). Used on the vCPU's thread, between two KVM_RUNs.
#pragma once

#include <memory>
#include <optional>

#include "engine/cpu_engine.h"
#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

class KvmVm;
class HelperVm;

class InstructionHelper {
  public:
    /// `vm`, `vcpu` and `config` outlive this.
    InstructionHelper(KvmVm& vm, const KvmFd& vcpu, const VcpuConfig& config);
    ~InstructionHelper();

    /// Allocates everything, on the vCPU's thread. Otherwise done by the first execute(), which a
    /// sandbox may forbid.
    void prepare();
    /// One step. nullopt: enter the guest again; otherwise what run() returns.
    std::optional<VcpuExit> execute();
    /// KVM stands at the first instruction of the handler of exception `vector` (#PF or #UD), which
    /// it has delivered. If what raised it was a SYSCALL or INT n of user mode that the host's KVM
    /// gets wrong (SystemCallMender), that instruction is executed instead; otherwise the handler's
    /// first instruction is.
    std::optional<VcpuExit> execute_at_handler(std::uint8_t vector);

  private:
    std::optional<VcpuExit> run(std::optional<std::uint8_t> handler_of);
    std::optional<VcpuExit> halt();

    KvmVm& vm_;
    const KvmFd& vcpu_;
    const VcpuConfig& config_;
    std::unique_ptr<HelperVm> helper_;
};

}  // namespace strata::engine::kvm
