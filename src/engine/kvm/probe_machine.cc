// ProbeMachine: creation, and KVM_RUN until an OUT. Linux Documentation/virt/kvm/api.rst.
#include "engine/kvm/probe_machine.h"

#include <cstring>

#include <fmt/format.h>
#include <sys/mman.h>

namespace strata::engine::kvm {
namespace {

constexpr std::uint32_t kTssAddress = 0xfffbd000;
constexpr int kMaxEntries = 16;

}  // namespace

Result<ProbeMachine> ProbeMachine::create(const KvmFd& device, int vcpu_mapping_size,
                                          std::size_t ram_bytes) {
    auto ram =
        STRATA_TRY(MmapRegion::map(ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    KvmFd vm(UniqueFd(
        STRATA_TRY(device.call(KVM_CREATE_VM, std::uint64_t{0}, "creating a KVM machine"))));
    if (device.extension(KVM_CAP_SET_TSS_ADDR) != 0) {
        STRATA_TRY_VOID(vm.call(KVM_SET_TSS_ADDR, std::uint64_t{kTssAddress},
                                "placing KVM's task state segment"));
    }
    kvm_enable_cap split = {};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = 24;
    STRATA_TRY_VOID(vm.call(KVM_ENABLE_CAP, &split, "asking KVM for local APICs"));
    kvm_userspace_memory_region region = {};
    region.memory_size = ram_bytes;
    // SAFETY: the mapping lives as long as the machine, in the same object.
    region.userspace_addr = reinterpret_cast<std::uint64_t>(ram.bytes().data());
    STRATA_TRY_VOID(vm.call(KVM_SET_USER_MEMORY_REGION, &region, "giving RAM to KVM"));
    KvmFd vcpu(
        UniqueFd(STRATA_TRY(vm.call(KVM_CREATE_VCPU, std::uint64_t{0}, "creating a KVM vCPU"))));
    auto mapping = STRATA_TRY(MmapRegion::map(static_cast<std::size_t>(vcpu_mapping_size),
                                              PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get()));
    return ProbeMachine(std::move(ram), std::move(vm), std::move(vcpu), std::move(mapping));
}

void ProbeMachine::put(std::uint64_t address, std::span<const std::uint8_t> bytes) const {
    std::memcpy(ram_.bytes().data() + address, bytes.data(), bytes.size());
}

void ProbeMachine::put64(std::uint64_t address, std::uint64_t value) const {
    std::memcpy(ram_.bytes().data() + address, &value, sizeof(value));
}

Result<> ProbeMachine::run_to_port(std::uint8_t port, std::string_view what) const {
    // SAFETY: KVM's mapping of a vCPU begins with a kvm_run; the engine checked its size.
    const auto* shared = reinterpret_cast<const kvm_run*>(mapping_.bytes().data());
    for (int i = 0; i < kMaxEntries; ++i) {
        auto entered = vcpu_.call(KVM_RUN, std::uint64_t{0}, "running a KVM vCPU");
        if (!entered.ok() && entered.error().system_errno() != EINTR &&
            entered.error().system_errno() != EAGAIN) {
            return std::move(entered).error();
        }
        if (entered.ok() && shared->exit_reason == KVM_EXIT_IO && shared->io.port == port) {
            return ok();
        }
        if (entered.ok() && shared->exit_reason != KVM_EXIT_INTR) {
            break;
        }
    }
    return Error(ErrorKind::NotSupported, fmt::format("{} did not reach its end", what));
}

}  // namespace strata::engine::kvm
