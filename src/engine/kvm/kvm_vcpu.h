// KvmVcpu: one vCPU of KVM: the KVM_RUN loop and what it exits for.
//
// No wake-up is lost: whoever wants the thread out of the guest writes kvm_run::immediate_exit,
// then sends the kick signal if the thread is in run(). KVM_RUN looks at immediate_exit before it
// enters, and the signal breaks it off if it has entered. The loop clears immediate_exit only after
// EINTR, before it looks for what was wanted. KVM_RUN also finishes a pending port or memory access
// before it answers EINTR, so state is always read between instructions.
//
// The kernel's instruction emulator may fail (internal error, suberror 1): the instruction is then
// executed by the interpreter (InstructionHelper), and the guest goes on. Where KVM's SYSCALL loses
// its way, SystemCallMender brings it back.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include <sys/types.h>

#include "base/mmap_region.h"
#include "base/mutex.h"
#include "engine/cpu_engine.h"
#include "engine/kvm/instruction_helper.h"
#include "engine/kvm/kvm_vm.h"
#include "engine/kvm/system_call_mender.h"

namespace strata::engine::kvm {

class KvmVcpu final : public Vcpu {
  public:
    static Result<std::unique_ptr<KvmVcpu>> create(KvmVm& vm, KvmFd fd, const VcpuConfig& config);
    ~KvmVcpu() override;

    void prepare_thread() override { helper_.prepare(); }
    VcpuExit run() override;
    void request_exit() override;
    Result<> get_state(arch::x86::ArchState& state) override;
    Result<> set_state(const arch::x86::ArchState& state) override;
    [[nodiscard]] VcpuCounters counters() const override;

    /// Makes the vCPU look again at what is pending for it. Any thread.
    void kick();

    [[nodiscard]] const KvmFd& fd() const { return fd_; }
    [[nodiscard]] KvmVm& vm() const { return vm_; }
    [[nodiscard]] const VcpuConfig& config() const { return config_; }

  private:
    KvmVcpu(KvmVm& vm, KvmFd fd, MmapRegion mapping, const VcpuConfig& config);
    // SAFETY: the mapping is at least sizeof(kvm_run) long (checked by KvmEngine::create) and lives
    // as long as this.
    [[nodiscard]] kvm_run& shared() const { return *reinterpret_cast<kvm_run*>(mapping_.data()); }
    [[nodiscard]] std::atomic_ref<__u8> immediate_exit() const {
        return std::atomic_ref<__u8>(shared().immediate_exit);
    }

    Result<> set_cpuid();
    Result<> read_cpuid_back();
    void enter_thread();
    void leave_thread();
    Result<> offer_external_interrupt();
    /// True once somebody asked for an exit; consumes the request.
    bool interrupted();
    std::optional<VcpuExit> handle_exit();
    void port_io();
    void memory_io();
    std::optional<VcpuExit> internal_error();

    KvmVm& vm_;
    KvmFd fd_;
    MmapRegion mapping_;
    VcpuConfig config_;
    std::atomic<bool> exit_requested_{false};
    Mutex thread_mutex_;
    pid_t thread_ STRATA_GUARDED_BY(thread_mutex_) = 0;  ///< who is in run(), or 0
    /// A vector given to KVM_INTERRUPT that KVM may not have delivered yet.
    std::optional<std::uint8_t> offered_vector_;
    InstructionHelper helper_;
    std::optional<SystemCallMender> mender_;  ///< where the host's KVM needs it
    std::atomic<std::uint64_t> io_exits_{0}, interrupts_{0}, helped_{0};
};

}  // namespace strata::engine::kvm
