// KvmEngine: the CPU engine over Linux's KVM.
//
// The kernel keeps the local APICs (split irqchip); IOAPIC and PICs are the machine's. Kernels
// without split irqchip, MSI signalling or immediate exit (before 4.12) are refused: NotSupported
// with the name of what is missing.
#pragma once

#include <memory>

#include "engine/cpu_engine.h"
#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

/// The limitation of hosts where keeps_interrupts_in_service() is false.
inline constexpr std::string_view kEndsInterruptsEarly =
    "this host's KVM ends an interrupt when it delivers it (ISR stays clear), so a level-triggered "
    "one may come once too often";

/// The limitation of hosts where system_calls_reach_ring_0() is false.
inline constexpr std::string_view kLosesSystemCalls =
    "this host's KVM leaves a guest in user mode at SYSCALL, which is mended if the guest's entry "
    "point is on a supervisor page";

class KvmEngine final : public CpuEngine {
  public:
    /// Opens /dev/kvm and checks what it can do. NotFound: no such device; PermissionDenied: not
    /// for this user; NotSupported.
    static Result<std::unique_ptr<KvmEngine>> create();

    [[nodiscard]] std::string_view name() const override { return "kvm"; }
    [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }
    Result<std::unique_ptr<EngineVm>> create_vm(memory::GuestRam& ram, IoDispatcher& io) override;

    [[nodiscard]] const KvmFd& device() const { return device_; }
    /// The MSRs whose values belong to a saved state, ascending.
    [[nodiscard]] const std::vector<std::uint32_t>& saved_msrs() const { return saved_msrs_; }
    /// Guests need a SystemCallMender.
    [[nodiscard]] bool loses_system_calls() const { return loses_system_calls_; }
    [[nodiscard]] int vcpu_mapping_size() const { return vcpu_mapping_size_; }

  private:
    explicit KvmEngine(KvmFd device) : device_(std::move(device)) {}
    Result<> read_capabilities();
    Result<> read_saved_msrs();
    void look_for_limitations();

    KvmFd device_;
    Capabilities capabilities_;
    std::vector<std::uint32_t> saved_msrs_;
    int vcpu_mapping_size_ = 0;
    bool loses_system_calls_ = false;
};

}  // namespace strata::engine::kvm
