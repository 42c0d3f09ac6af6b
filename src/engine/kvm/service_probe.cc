// ServiceProbe: one page of real-mode guest, one edge-triggered message, and a look at ISR.
#include "engine/kvm/service_probe.h"

#include <array>
#include <cstring>

#include "engine/kvm/probe_machine.h"

namespace strata::engine::kvm {
namespace {

constexpr std::size_t kRamBytes = 4096;
constexpr std::uint32_t kCode = 0x800, kHandler = 0x900, kStack = 0xf00;
constexpr std::uint8_t kVector = 0x50;
constexpr std::uint8_t kPort = 0xe0, kNoInterruptPort = 0xe1;
constexpr std::uint32_t kIsr = 0x100, kSpurious = 0xf0;
// sti; mov cx, 0ffffh; 1: loop 1b; out kNoInterruptPort, al: ends also where no interrupt comes
constexpr std::array<std::uint8_t, 8> kWait = {0xfb, 0xb9, 0xff, 0xff,
                                               0xe2, 0xfe, 0xe6, kNoInterruptPort};
constexpr std::array<std::uint8_t, 2> kOut = {0xe6, kPort};  // out kPort, al

std::uint32_t lapic_register(const kvm_lapic_state& lapic, std::uint32_t offset) {
    std::uint32_t value = 0;
    std::memcpy(&value, lapic.regs + offset, sizeof(value));
    return value;
}

Result<> start(const KvmFd& vcpu) {
    kvm_sregs sregs = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_SREGS, &sregs, "reading system registers"));
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_SREGS, &sregs, "setting system registers"));
    kvm_regs regs = {};
    regs.rip = kCode;
    regs.rsp = kStack;
    regs.rflags = 2;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_REGS, &regs, "setting registers"));
    kvm_lapic_state lapic = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_LAPIC, &lapic, "reading the local APIC"));
    const std::uint32_t enabled = 0x1ff;
    std::memcpy(lapic.regs + kSpurious, &enabled, sizeof(enabled));
    STRATA_TRY_VOID(vcpu.call(KVM_SET_LAPIC, &lapic, "setting the local APIC"));
    return ok();
}

}  // namespace

Result<bool> keeps_interrupts_in_service(const KvmFd& device, int vcpu_mapping_size) {
    const auto machine = STRATA_TRY(ProbeMachine::create(device, vcpu_mapping_size, kRamBytes));
    machine.put(kCode, kWait);
    machine.put(kHandler, kOut);
    constexpr std::array<std::uint8_t, 4> kGate = {kHandler & 0xff, kHandler >> 8, 0,
                                                   0};  // segment 0
    machine.put(std::uint64_t{kVector} * 4, kGate);
    STRATA_TRY_VOID(start(machine.vcpu()));
    kvm_msi message = {};
    message.address_lo = 0xfee00000;
    message.data = kVector;
    STRATA_TRY_VOID(machine.vm().call(KVM_SIGNAL_MSI, &message, "sending an MSI"));
    STRATA_TRY_VOID(machine.run_to_port(kPort, "the interrupt probe"));
    kvm_lapic_state lapic = {};
    STRATA_TRY_VOID(machine.vcpu().call(KVM_GET_LAPIC, &lapic, "reading the local APIC"));
    return (lapic_register(lapic, kIsr + kVector / 32 * 16) >> kVector % 32 & 1) != 0;
}

}  // namespace strata::engine::kvm
