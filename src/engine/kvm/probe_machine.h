// ProbeMachine: a scratch KVM machine of one vCPU and a few pages of RAM, for questions to the
// host's KVM that only a guest can answer.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/mmap_region.h"
#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

class ProbeMachine {
  public:
    /// RAM of `ram_bytes` at 0, a local APIC in the kernel, the vCPU in its power-on state.
    static Result<ProbeMachine> create(const KvmFd& device, int vcpu_mapping_size,
                                       std::size_t ram_bytes);

    [[nodiscard]] const KvmFd& vm() const { return vm_; }
    [[nodiscard]] const KvmFd& vcpu() const { return vcpu_; }
    /// Copies bytes into RAM; they fit.
    void put(std::uint64_t address, std::span<const std::uint8_t> bytes) const;
    void put64(std::uint64_t address, std::uint64_t value) const;

    /// Runs until the guest's OUT to `port`. Failed with "`what` did not …" if it ended elsewhere.
    [[nodiscard]] Result<> run_to_port(std::uint8_t port, std::string_view what) const;

  private:
    ProbeMachine(MmapRegion ram, KvmFd vm, KvmFd vcpu, MmapRegion mapping)
        : ram_(std::move(ram)),
          vm_(std::move(vm)),
          vcpu_(std::move(vcpu)),
          mapping_(std::move(mapping)) {}

    MmapRegion ram_;  // outlives the machine below
    KvmFd vm_, vcpu_;
    MmapRegion mapping_;
};

}  // namespace strata::engine::kvm
