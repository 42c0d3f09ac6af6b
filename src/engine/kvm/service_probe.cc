// ServiceProbe: one page of real-mode guest, one edge-triggered message, and a look at ISR.
#include "engine/kvm/service_probe.h"

#include <sys/mman.h>

#include <array>
#include <cstring>

#include "base/mmap_region.h"

namespace strata::engine::kvm {
namespace {

constexpr std::size_t kRamBytes = 4096;
constexpr std::uint32_t kCode = 0x800, kHandler = 0x900, kStack = 0xf00;
constexpr std::uint32_t kTssAddress = 0xfffbd000;
constexpr std::uint8_t kVector = 0x50;
constexpr std::uint8_t kPort = 0xe0, kNoInterruptPort = 0xe1;
constexpr std::uint32_t kIsr = 0x100, kSpurious = 0xf0;
constexpr int kMaxEntries = 16;
// sti; mov cx, 0ffffh; 1: loop 1b; out kNoInterruptPort, al: ends also where no interrupt comes
constexpr std::array<std::uint8_t, 8> kWait = {0xfb, 0xb9, 0xff, 0xff, 0xe2, 0xfe, 0xe6, kNoInterruptPort};
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

/// Until the handler's OUT.
Result<> run(const KvmFd& vcpu, const MmapRegion& mapping) {
    // SAFETY: KVM's mapping of a vCPU begins with a kvm_run; the engine checked its size.
    const auto* shared = reinterpret_cast<const kvm_run*>(mapping.bytes().data());
    for (int i = 0; i < kMaxEntries; ++i) {
        auto entered = vcpu.call(KVM_RUN, std::uint64_t{0}, "running a KVM vCPU");
        if (!entered.ok() && entered.error().system_errno() != EINTR && entered.error().system_errno() != EAGAIN) {
            return std::move(entered).error();
        }
        if (entered.ok() && shared->exit_reason == KVM_EXIT_IO && shared->io.port == kPort) {
            return ok();
        }
        if (entered.ok() && shared->exit_reason != KVM_EXIT_INTR) {
            break;
        }
    }
    return Error(ErrorKind::NotSupported, "the interrupt probe did not reach its handler");
}

}  // namespace

Result<bool> keeps_interrupts_in_service(const KvmFd& device, int vcpu_mapping_size) {
    const auto ram = STRATA_TRY(MmapRegion::map(kRamBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    std::memcpy(ram.bytes().data() + kCode, kWait.data(), kWait.size());
    std::memcpy(ram.bytes().data() + kHandler, kOut.data(), kOut.size());
    const std::uint32_t handler = kHandler;  // segment 0
    std::memcpy(ram.bytes().data() + std::size_t{kVector} * 4, &handler, sizeof(handler));

    const KvmFd vm(UniqueFd(STRATA_TRY(device.call(KVM_CREATE_VM, std::uint64_t{0}, "creating a KVM machine"))));
    if (device.extension(KVM_CAP_SET_TSS_ADDR) != 0) {
        STRATA_TRY_VOID(vm.call(KVM_SET_TSS_ADDR, std::uint64_t{kTssAddress}, "placing KVM's task state segment"));
    }
    kvm_enable_cap split = {};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = 24;
    STRATA_TRY_VOID(vm.call(KVM_ENABLE_CAP, &split, "asking KVM for local APICs"));
    kvm_userspace_memory_region region = {};
    region.memory_size = kRamBytes;
    // SAFETY: the mapping outlives the machine, which is gone at the end of this function.
    region.userspace_addr = reinterpret_cast<std::uint64_t>(ram.bytes().data());
    STRATA_TRY_VOID(vm.call(KVM_SET_USER_MEMORY_REGION, &region, "giving RAM to KVM"));
    const KvmFd vcpu(UniqueFd(STRATA_TRY(vm.call(KVM_CREATE_VCPU, std::uint64_t{0}, "creating a KVM vCPU"))));
    const auto mapping = STRATA_TRY(MmapRegion::map(static_cast<std::size_t>(vcpu_mapping_size), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get()));
    STRATA_TRY_VOID(start(vcpu));
    kvm_msi message = {};
    message.address_lo = 0xfee00000;
    message.data = kVector;
    STRATA_TRY_VOID(vm.call(KVM_SIGNAL_MSI, &message, "sending an MSI"));
    STRATA_TRY_VOID(run(vcpu, mapping));
    kvm_lapic_state lapic = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_LAPIC, &lapic, "reading the local APIC"));
    return (lapic_register(lapic, kIsr + kVector / 32 * 16) >> kVector % 32 & 1) != 0;
}

}  // namespace strata::engine::kvm
