// KvmEngine: opening /dev/kvm, what it must offer, and what it lets a guest see. Linux
// Documentation/virt/kvm/api.rst.
#include "engine/kvm/kvm_engine.h"

#include <algorithm>
#include <array>

#include <fcntl.h>
#include <fmt/format.h>

#include "arch/x86/cpu_features.h"
#include "arch/x86/registers.h"
#include "engine/kvm/kvm_vm.h"
#include "engine/kvm/service_probe.h"
#include "engine/kvm/system_call_probe.h"

namespace strata::engine::kvm {
namespace {

constexpr std::size_t kMaxMsrs = 1024;

struct NeededExtension {
    int capability;
    std::string_view name;
};
constexpr NeededExtension kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_SPLIT_IRQCHIP, "split irqchip"},
    {KVM_CAP_SIGNAL_MSI, "MSI signalling"},
    {KVM_CAP_IRQ_ROUTING, "IRQ routing"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_EXT_CPUID, "extended CPUID"},
    {KVM_CAP_XSAVE, "XSAVE state"},
    {KVM_CAP_XCRS, "XCR state"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_MP_STATE, "MP state"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_ADJUST_CLOCK, "clock control"},
};

/// MSRs that are configuration, aliases or held elsewhere in ArchState: [first, last].
struct MsrRange {
    std::uint32_t first, last;
};
constexpr MsrRange kNotSaved[] = {
    {0x10, 0x12},    // TSC is a field; 11h and 12h are the old names of the kvmclock registers
    {0x1b, 0x1b},    // APIC base: a field
    {0x8b, 0x8b},    // microcode revision
    {0xcd, 0xcf},    // platform and core capabilities
    {0x10a, 0x10a},  // ARCH_CAPABILITIES
    {0x345, 0x345},  // PERF_CAPABILITIES
    {0x480, 0x49f},  // VMX capabilities
    {0x40000000, 0x400001ff},  // Hyper-V, never shown
    {0xc0000080, 0xc0000080},  // EFER: a field
    {0xc0000100, 0xc0000101},  // FS and GS base: fields
};
/// Not in every kernel's list although they can be saved.
constexpr MsrRange kAlsoSaved[] = {
    {0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x2ff, 0x2ff}};

bool saved(std::uint32_t index) {
    return std::ranges::none_of(kNotSaved, [&](const MsrRange& range) {
        return index >= range.first && index <= range.last;
    });
}

Result<KvmFd> open_device() {
    UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!fd) {
        return Error::from_errno("cannot open /dev/kvm", errno);
    }
    return KvmFd(std::move(fd));
}

}  // namespace

Result<std::unique_ptr<KvmEngine>> KvmEngine::create() {
    auto engine = std::unique_ptr<KvmEngine>(new KvmEngine(STRATA_TRY(open_device())));
    const KvmFd& device = engine->device_;
    const int version =
        STRATA_TRY(device.call(KVM_GET_API_VERSION, std::uint64_t{0}, "asking KVM's API version"));
    if (version != KVM_API_VERSION) {
        return Error(ErrorKind::NotSupported, fmt::format("/dev/kvm speaks API version {}, not {}",
                                                          version, KVM_API_VERSION));
    }
    for (const NeededExtension& needed : kNeeded) {
        if (device.extension(needed.capability) == 0) {
            return Error(ErrorKind::NotSupported,
                         fmt::format("this kernel's KVM lacks {}", needed.name));
        }
    }
    engine->vcpu_mapping_size_ = STRATA_TRY(
        device.call(KVM_GET_VCPU_MMAP_SIZE, std::uint64_t{0}, "asking KVM's mapping size"));
    if (engine->vcpu_mapping_size_ < static_cast<int>(sizeof(kvm_run))) {
        return Error(ErrorKind::NotSupported, "this kernel's KVM has too small a vCPU mapping");
    }
    STRATA_TRY_VOID(install_kick_signal());
    STRATA_TRY_VOID(engine->read_capabilities());
    STRATA_TRY_VOID(engine->read_saved_msrs());
    engine->look_for_limitations();
    return engine;
}

Result<> KvmEngine::read_capabilities() {
    WithTail<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuidEntries);
    cpuid.head()->nent = kMaxCpuidEntries;
    STRATA_TRY_VOID(device_.call(KVM_GET_SUPPORTED_CPUID, cpuid.head(), "asking KVM's CPUID"));
    auto& table = capabilities_.supported_cpuid;
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(cpuid.head()->nent, kMaxCpuidEntries);
         ++i) {
        table.entries.push_back(from_kvm(cpuid.items()[i]));
    }
    // Emulated by the kernel's local APIC, but not in its table on all kernels.
    for (const std::string_view name : {"x2apic", "hypervisor"}) {
        arch::x86::set_feature(table, *arch::x86::find_cpu_feature(name), true);
    }
    arch::x86::set_feature(table, *arch::x86::find_cpu_feature("tsc_deadline_timer"),
                           device_.extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0);
    capabilities_.max_vcpus =
        static_cast<std::uint32_t>(std::max(device_.extension(KVM_CAP_MAX_VCPUS), 1));
    // The frequency is known per vCPU only: ask a scratch one.
    const KvmFd vm(UniqueFd(
        STRATA_TRY(device_.call(KVM_CREATE_VM, std::uint64_t{0}, "creating a KVM machine"))));
    const KvmFd vcpu(
        UniqueFd(STRATA_TRY(vm.call(KVM_CREATE_VCPU, std::uint64_t{0}, "creating a KVM vCPU"))));
    auto khz = vcpu.call(KVM_GET_TSC_KHZ, std::uint64_t{0}, "asking KVM's TSC frequency");
    capabilities_.tsc_khz =
        khz.ok() ? static_cast<std::uint64_t>(*khz) : 0;  // unstable host TSC: no timing leaves
    return ok();
}

void KvmEngine::look_for_limitations() {
    const auto kept = keeps_interrupts_in_service(device_, vcpu_mapping_size_);
    if (!kept.ok()) {
        capabilities_.limitations.push_back(kept.error().text());
    } else if (!*kept) {
        capabilities_.limitations.emplace_back(kEndsInterruptsEarly);
    }
    const auto arrive = system_calls_reach_ring_0(device_, vcpu_mapping_size_);
    if (!arrive.ok()) {
        capabilities_.limitations.push_back(arrive.error().text());
    } else if (!*arrive) {
        loses_system_calls_ = true;
        capabilities_.limitations.emplace_back(kLosesSystemCalls);
    }
}

Result<> KvmEngine::read_saved_msrs() {
    WithTail<kvm_msr_list, std::uint32_t> list(kMaxMsrs);
    list.head()->nmsrs = kMaxMsrs;
    STRATA_TRY_VOID(device_.call(KVM_GET_MSR_INDEX_LIST, list.head(), "asking KVM's MSRs"));
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(list.head()->nmsrs, kMaxMsrs); ++i) {
        if (saved(list.items()[i])) {
            saved_msrs_.push_back(list.items()[i]);
        }
    }
    for (const MsrRange& range : kAlsoSaved) {
        for (std::uint32_t index = range.first; index <= range.last; ++index) {
            saved_msrs_.push_back(index);
        }
    }
    std::ranges::sort(saved_msrs_);
    saved_msrs_.erase(std::unique(saved_msrs_.begin(), saved_msrs_.end()), saved_msrs_.end());
    return ok();
}

Result<std::unique_ptr<EngineVm>> KvmEngine::create_vm(memory::GuestRam& ram, IoDispatcher& io) {
    return std::unique_ptr<EngineVm>(STRATA_TRY(KvmVm::create(*this, ram, io)));
}

}  // namespace strata::engine::kvm
