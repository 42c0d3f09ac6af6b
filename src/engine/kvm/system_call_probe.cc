// SystemCallProbe: ring 3 with one SYSCALL, and an OUT where it leads.
#include "engine/kvm/system_call_probe.h"

#include <array>

#include "arch/x86/registers.h"
#include "engine/kvm/probe_machine.h"
#include "engine/kvm/vcpu_state.h"

namespace strata::engine::kvm {
namespace {

namespace x86 = arch::x86;

constexpr std::size_t kRamBytes = 0x8000;
constexpr std::uint64_t kCode = 0x1000, kEntry = 0x1800, kPml4 = 0x2000, kPdpt = 0x3000,
                        kDirectory = 0x4000, kStack = 0x6000;
constexpr std::uint8_t kPort = 0xe0;
constexpr std::uint16_t kKernelCode = 8, kUserData = 0x2b, kUserCode = 0x33;
constexpr std::uint64_t kStar = std::uint64_t{kKernelCode} << 32 | std::uint64_t{kUserData - 8}
                                                                       << 48;
constexpr std::uint64_t kAnyPort =
    x86::rflags::kIopl;  // OUT works in ring 3 too, so that the guest always ends
constexpr std::array<std::uint8_t, 2> kSyscall = {0x0f, 0x05};
constexpr std::array<std::uint8_t, 2> kOut = {0xe6, kPort};

kvm_segment user_segment(std::uint16_t selector, std::uint8_t type, bool code) {
    kvm_segment segment = {};
    segment.selector = selector;
    segment.limit = 0xffffffff;
    segment.type = type;
    segment.s = 1;
    segment.dpl = 3;
    segment.present = 1;
    segment.g = 1;
    segment.l = code ? 1 : 0;
    segment.db = code ? 0 : 1;
    return segment;
}

/// A guest without CPUID has no long mode.
Result<> show_everything(const KvmFd& device, const KvmFd& vcpu) {
    WithTail<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuidEntries);
    cpuid.head()->nent = kMaxCpuidEntries;
    STRATA_TRY_VOID(device.call(KVM_GET_SUPPORTED_CPUID, cpuid.head(), "asking KVM's CPUID"));
    STRATA_TRY_VOID(vcpu.call(KVM_SET_CPUID2, cpuid.head(), "setting a vCPU's CPUID"));
    return ok();
}

Result<> start(const KvmFd& vcpu) {
    kvm_sregs sregs = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_SREGS, &sregs, "reading system registers"));
    sregs.cs = user_segment(kUserCode, 11, true);
    sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = user_segment(kUserData, 3, false);
    sregs.cr3 = kPml4;
    sregs.cr4 = x86::cr4::kPae;
    sregs.cr0 = x86::cr0::kPg | x86::cr0::kPe | x86::cr0::kNe | x86::cr0::kEt;
    sregs.efer = x86::efer::kLme | x86::efer::kLma | x86::efer::kSce;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_SREGS, &sregs, "setting system registers"));
    kvm_regs regs = {};
    regs.rip = kCode;
    regs.rsp = kStack;
    regs.rflags = x86::rflags::kFixed | kAnyPort;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_REGS, &regs, "setting registers"));
    STRATA_TRY_VOID(write_msr(vcpu, x86::msr::kStar, kStar));
    STRATA_TRY_VOID(write_msr(vcpu, x86::msr::kLstar, kEntry));
    return write_msr(vcpu, x86::msr::kSfmask, 0);
}

}  // namespace

Result<bool> system_calls_reach_ring_0(const KvmFd& device, int vcpu_mapping_size) {
    const auto machine = STRATA_TRY(ProbeMachine::create(device, vcpu_mapping_size, kRamBytes));
    machine.put(kCode, kSyscall);
    machine.put(kEntry, kOut);
    constexpr std::uint64_t kTable = 7, kLargePage = 0x87;  // present, writable, user
    machine.put64(kPml4, kPdpt | kTable);
    machine.put64(kPdpt, kDirectory | kTable);
    machine.put64(kDirectory, kLargePage);
    STRATA_TRY_VOID(show_everything(device, machine.vcpu()));
    STRATA_TRY_VOID(start(machine.vcpu()));
    STRATA_TRY_VOID(machine.run_to_port(kPort, "the system call probe"));
    kvm_sregs sregs = {};
    STRATA_TRY_VOID(machine.vcpu().call(KVM_GET_SREGS, &sregs, "reading system registers"));
    return (sregs.cs.selector & 3) == 0 && sregs.cs.dpl == 0;
}

}  // namespace strata::engine::kvm
