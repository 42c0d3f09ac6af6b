// SystemCallMender: brings SYSCALL and INT n of a guest's user mode to its supervisor mode, on a
// KVM that loses them on the way.
//
// A KVM without hardware virtualisation (PVM) runs user mode on the processor itself and emulates
// supervisor mode. There, SYSCALL of ring 3 loads RIP, RCX, R11 and RFLAGS but neither CS nor SS,
// without an exit, and INT n is #UD (SystemCallProbe looks for the first). Both end in an
// exception: the entry point lies on a supervisor page, so its fetch from ring 3 is #PF. Exceptions
// do arrive properly, and KVM's emulator honours breakpoints of user space: one stands at the first
// instruction of the guest's #PF handler, one at that of its #UD handler. Where one stops,
// InstructionHelper looks at the frame that was pushed: if it is of such an instruction, the
// exception is taken back and the interpreter executes the instruction; if not, it executes the
// handler's first instruction. Either way KVM goes on behind it.
//
// Limits: the guest's own hardware breakpoints do not work meanwhile; an entry point on a user page
// is not noticed; the IDT is looked at whenever KVM comes back to user space, so a guest must have
// made one access to a device between setting it up and its first system call. Used on the vCPU's
// thread.
#pragma once

#include <array>
#include <optional>

#include "engine/kvm/instruction_helper.h"
#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

class SystemCallMender {
  public:
    /// All outlive this.
    SystemCallMender(KvmVm& vm, const KvmFd& vcpu, InstructionHelper& helper)
        : vm_(vm), vcpu_(vcpu), helper_(helper) {}

    /// Before KVM is entered: puts the breakpoints where the IDT says now.
    Result<> watch();
    /// After KVM_EXIT_DEBUG. nullopt: enter the guest again; otherwise what run() returns.
    std::optional<VcpuExit> stopped(const kvm_run& run);

  private:
    [[nodiscard]] std::uint64_t handler(const kvm_sregs& sregs, std::uint8_t vector) const;

    KvmVm& vm_;
    const KvmFd& vcpu_;
    InstructionHelper& helper_;
    std::array<std::uint64_t, 2> watched_{};  ///< linear addresses of the handlers, 0: none
};

}  // namespace strata::engine::kvm
