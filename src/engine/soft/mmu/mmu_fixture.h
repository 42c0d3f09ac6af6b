// MmuFixture: one vCPU over 8 MiB and page tables made by hand, for the tests of the MMU.
#pragma once

#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "arch/x86/registers.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm_fake.h"

namespace strata::engine::soft {

namespace x86 = arch::x86;

// Bits of page table entries, and where the tables and pages of the tests lie.
inline constexpr std::uint64_t kP = 1, kW = 2, kU = 4, kA = 0x20, kD = 0x40, kPs = 0x80, kG = 0x100,
                               kNx = 1ULL << 63;
inline constexpr std::uint64_t kRoot = 0x10000, kLevel3 = 0x11000, kLevel2 = 0x12000,
                               kLevel1 = 0x13000, kData = 0x20000, kOther = 0x21000;
inline constexpr std::uint64_t kLinear = 0x7f0000400000;

class MmuTest : public testing::Test {
  protected:
    MmuTest() : vm_(FakeSoftVm::create(8U << 20)), cpu_(*vm_->cpus()[0]) {}

    void poke(std::uint64_t at, std::uint64_t value) {
        std::memcpy(vm_->ram->base() + at, &value, 8);
    }
    void poke32(std::uint64_t at, std::uint32_t value) {
        std::memcpy(vm_->ram->base() + at, &value, 4);
    }
    std::uint64_t peek(std::uint64_t at) {
        std::uint64_t value = 0;
        std::memcpy(&value, vm_->ram->base() + at, 8);
        return value;
    }
    void long_mode(std::uint64_t cr4 = 0) {
        cpu_.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp;
        cpu_.cr4 = x86::cr4::kPae | cr4;
        cpu_.efer = x86::efer::kLme | x86::efer::kLma | x86::efer::kNxe;
        cpu_.cr3 = kRoot;
        flush_tlb_all(cpu_);
    }
    // Four levels down to kData for kLinear, with `leaf` bits in the PTE.
    void map(std::uint64_t leaf, std::uint64_t upper = kP | kW | kU) {
        poke(kRoot + ((kLinear >> 39) & 511) * 8, kLevel3 | upper);
        poke(kLevel3 + ((kLinear >> 30) & 511) * 8, kLevel2 | upper);
        poke(kLevel2 + ((kLinear >> 21) & 511) * 8, kLevel1 | upper);
        poke(kLevel1 + ((kLinear >> 12) & 511) * 8, kData | leaf);
    }
    std::uint64_t leaf() { return peek(kLevel1 + ((kLinear >> 12) & 511) * 8); }
    void user() {
        cpu_.cpl = 3;
        privilege_changed(cpu_);
    }
    bool read(std::uint64_t linear = kLinear) {
        std::uint64_t value = 0;
        return read_linear(cpu_, linear, &value, 8);
    }
    bool write(std::uint64_t linear = kLinear) {
        const std::uint64_t value = 0x1122334455667788;
        return write_linear(cpu_, linear, &value, 8);
    }
    bool fetch(std::uint64_t linear = kLinear) {
        std::uint64_t physical = 0;
        return translate_linear(cpu_, linear, MemAccess::Execute, Privilege::Current, physical);
    }
    // The error code of the #PF that must be pending; clears it.
    std::uint32_t fault() {
        EXPECT_TRUE(cpu_.exception.pending);
        EXPECT_EQ(cpu_.exception.vector, x86::vector::kPf);
        const std::uint32_t error = cpu_.exception.error;
        cpu_.exception = {};
        return error;
    }

    std::unique_ptr<FakeSoftVm> vm_;
    CpuState& cpu_;
};

}  // namespace strata::engine::soft
