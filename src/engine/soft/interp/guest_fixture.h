// GuestFixture: a small guest for tests of the interpreter: RAM, descriptor tables, page tables,
// and a way to run bytes.
//
// Layout: code at 0x1000, stack below 0x8000, data from 0x9000, GDT at 0x20000, IDT at 0x21000, TSS
// at 0x22000, page tables from 0x100000 (4 KiB pages below 2 MiB, identity). The page at 0x60000 is
// not present, 0x61000 is read-only.
#pragma once

#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include <cpuid.h>
#include <gtest/gtest.h>

#include "arch/x86/arch_state.h"
#include "arch/x86/registers.h"
#include "engine/soft/interp/interpreter.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/soft_vm_fake.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {

namespace x86 = arch::x86;

class GuestFixture : public ::testing::Test {
  protected:
    static constexpr std::uint64_t kCode = 0x1000, kStack = 0x8000, kData = 0x9000, kGdt = 0x20000,
                                   kIdt = 0x21000, kTss = 0x22000;
    static constexpr std::uint64_t kAbsent = 0x60000, kReadOnly = 0x61000, kTables = 0x100000;
    static constexpr std::uint16_t kCode64 = 0x08, kData32 = 0x10, kCode32 = 0x18, kCode16 = 0x20,
                                   kUserCode64 = 0x2b, kUserData = 0x33, kTssSelector = 0x40,
                                   kUserCode32 = 0x53, kData16 = 0x58, kGate = 0x60;

    void SetUp() override {
        vm_ = FakeSoftVm::create(16U << 20U);
        vm_->cpuid_table = host_cpuid();
        cpu().xcr0 = 1;
        std::memset(cpu().xsave, 0, sizeof cpu().xsave);
        reset_xsave(cpu().xsave, 0x37f);
        write_tables();
    }

    CpuState& cpu() { return *vm_->cpus()[0]; }
    std::byte* ram() { return vm_->ram->base(); }
    template <typename T>
    T peek(std::uint64_t address) {
        T value;
        std::memcpy(&value, ram() + address, sizeof value);
        return value;
    }
    template <typename T>
    void poke(std::uint64_t address, T value) {
        std::memcpy(ram() + address, &value, sizeof value);
    }
    void code(std::initializer_list<int> bytes, std::uint64_t at = kCode) {
        for (const int byte : bytes) {
            ram()[at++] = static_cast<std::byte>(byte);
        }
    }

    void enter_real() {
        reset_registers();
        cpu().cr0 = x86::cr0::kEt;
        for (Segment& s : cpu().segments) {
            s = {0, 0x93, 0xffff, 0, false};
        }
        cpu().segments[x86::Cs].attributes = 0x9b;
        cpu().idtr = {0, 0x3ff};
        settle();
    }

    void enter_protected(std::uint16_t cs = kCode32) {
        reset_registers();
        cpu().cr0 = x86::cr0::kEt | x86::cr0::kPe;
        flat_segments(kData32);
        cpu().segments[x86::Cs] = {cs, static_cast<std::uint16_t>(cs == kCode16 ? 0x9b : 0xc09b),
                                   cs == kCode16 ? 0xffffU : 0xffffffffU, 0, false};
        tables();
        settle();
    }

    void enter_long(unsigned cpl = 0) {
        poke<std::uint32_t>(kTss + 8, 0);  // the upper half of RSP0, SS0 in the 32-bit TSS
        reset_registers();
        cpu().cr0 = x86::cr0::kEt | x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp | x86::cr0::kNe;
        cpu().cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt |
                    x86::cr4::kOsxsave | x86::cr4::kFsgsbase;
        cpu().efer = x86::efer::kLme | x86::efer::kLma | x86::efer::kSce | x86::efer::kNxe;
        cpu().cr3 = kTables;
        cpu().xcr0 = host_vector_mask();
        flat_segments(cpl == 3 ? kUserData : kData32);
        cpu().segments[x86::Cs] = {cpl == 3 ? kUserCode64 : kCode64,
                                   static_cast<std::uint16_t>(0xa09b | (cpl << 5U)), 0xffffffffU, 0,
                                   false};
        tables();
        settle();
    }

    /// One step; exceptions stay pending.
    StepResult step() { return interpret_one(cpu()); }
    /// Steps until `count` instructions are done or one does not end normally.
    StepResult run(unsigned count) {
        StepResult result = StepResult::Done;
        for (unsigned i = 0; i < count; ++i) {
            result = step();
            if (result != StepResult::Done && result != StepResult::EndBlock) {
                break;
            }
        }
        return result;
    }
    void expect_exception(std::uint8_t vector, int error = -1) {
        EXPECT_TRUE(cpu().exception.pending);
        EXPECT_EQ(cpu().exception.vector, vector);
        EXPECT_EQ(cpu().exception.has_error, error >= 0);
        if (error >= 0) {
            EXPECT_EQ(cpu().exception.error, static_cast<std::uint32_t>(error));
        }
    }
    std::uint64_t& reg(unsigned number) { return cpu().gpr[number]; }
    std::uint64_t arithmetic() { return cpu().rflags & x86::rflags::kArithmetic; }

    /// A 32-bit (legacy) or 64-bit (long mode) gate.
    void gate(std::uint8_t vector, std::uint16_t selector, std::uint32_t target, unsigned type = 14,
              unsigned dpl = 0, unsigned ist = 0) {
        const std::uint64_t low = (target & 0xffffU) |
                                  (static_cast<std::uint64_t>(selector) << 16U) |
                                  (static_cast<std::uint64_t>(ist) << 32U) |
                                  (static_cast<std::uint64_t>(0x80U | (dpl << 5U) | type) << 40U) |
                                  (static_cast<std::uint64_t>(target >> 16U) << 48U);
        const bool wide = (cpu().efer & x86::efer::kLma) != 0;
        poke<std::uint64_t>(kIdt + vector * (wide ? 16U : 8U), low);
        if (wide) {
            poke<std::uint64_t>(kIdt + vector * 16U + 8, 0);
        }
    }

    std::unique_ptr<FakeSoftVm> vm_;

  private:
    void reset_registers() {
        for (std::uint64_t& value : cpu().gpr) {
            value = 0;
        }
        reg(x86::Rsp) = kStack;
        cpu().rip = kCode;
        cpu().rflags = 2;
        cpu().cr0 = cpu().cr2 = cpu().cr3 = cpu().cr4 = cpu().efer = 0;
        cpu().dr6 = 0xffff0ff0;
        cpu().dr7 = 0x400;
        cpu().exception = PendingException{};
        cpu().interrupt_shadow = false;
        cpu().ldtr.unusable = true;
    }
    void flat_segments(std::uint16_t selector) {
        for (Segment& s : cpu().segments) {
            s = {selector, static_cast<std::uint16_t>(0xc093 | ((selector & 3U) << 5U)),
                 0xffffffffU, 0, false};
        }
    }
    void tables() {
        cpu().gdtr = {kGdt, 0x7f};
        cpu().idtr = {kIdt, 0xfff};
        cpu().tr = {kTssSelector, 0x8b, 0x67, kTss, false};
    }
    void settle() {
        update_mode(cpu());
        flush_tlb_all(cpu());
        privilege_changed(cpu());
    }
    void write_tables() {
        constexpr std::uint64_t kDescriptors[] = {0,
                                                  0x00af9b000000ffff,  // 08 code 64
                                                  0x00cf93000000ffff,  // 10 data
                                                  0x00cf9b000000ffff,  // 18 code 32
                                                  0x00009b000000ffff,  // 20 code 16
                                                  0x00affb000000ffff,  // 28 user code 64
                                                  0x00cff3000000ffff,  // 30 user data
                                                  0x00cf13000000ffff,  // 38 data, not present
                                                  0x0000890220000067,  // 40 TSS, available
                                                  0,
                                                  0x00cffb000000ffff,   // 50 user code 32
                                                  0x000093000000ffff};  // 58 data 16
        for (std::size_t i = 0; i < std::size(kDescriptors); ++i) {
            poke(kGdt + i * 8, kDescriptors[i]);
        }
        poke<std::uint32_t>(kTss + 4, 0x7000);  // ESP0, RSP0
        poke<std::uint32_t>(kTss + 8, kData32);
        poke<std::uint64_t>(kTables, (kTables + 0x1000) | 7);
        poke<std::uint64_t>(kTables + 0x1000, (kTables + 0x2000) | 7);
        poke<std::uint64_t>(kTables + 0x2000, (kTables + 0x3000) | 7);
        for (std::uint64_t page = 0; page < 512; ++page) {
            const std::uint64_t address = page << 12U;
            poke<std::uint64_t>(kTables + 0x3000 + page * 8,
                                address | (address == kAbsent     ? 0U
                                           : address == kReadOnly ? 5U
                                                                  : 7U));
        }
    }
    static x86::CpuidTable host_cpuid() {
        x86::CpuidTable table;
        constexpr struct {
            std::uint32_t leaf, first, last;
        } kLeaves[] = {{0, 0, 0},          {1, 0, 0},          {7, 0, 1},         {0xd, 0, 7},
                       {0x80000000, 0, 0}, {0x80000001, 0, 0}, {0x80000008, 0, 0}};
        for (const auto& leaf : kLeaves) {
            for (std::uint32_t sub = leaf.first; sub <= leaf.last; ++sub) {
                x86::CpuidEntry entry;
                entry.leaf = leaf.leaf;
                entry.subleaf = sub;
                entry.subleaf_matters = leaf.last != 0;
                __cpuid_count(leaf.leaf, sub, entry.registers.eax, entry.registers.ebx,
                              entry.registers.ecx, entry.registers.edx);
                table.entries.push_back(entry);
            }
        }
        return table;
    }
};

}  // namespace strata::engine::soft
