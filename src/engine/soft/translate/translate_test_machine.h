// TranslateTestMachine: a long-mode guest for tests of the translator: page tables, code, data,
// stack, one vCPU.
//
// The same program can be run by the interpreter and by the translator from the same state; what is
// compared is registers, flags, the pending exception, vector state and the data pages.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <cpuid.h>

#include "arch/x86/registers.h"
#include "engine/soft/runtime/soft_vm_fake.h"
#include "engine/soft/runtime/vector_state.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {

class TranslateTestMachine {
  public:
    // Linear addresses. Each region's pages are user pages unless said otherwise.
    static constexpr std::uint64_t kCode = 0x400000;  // 4 pages, writable
    static constexpr std::uint64_t kData = 0x600000;  // 2 pages, writable; the next is not mapped
    static constexpr std::uint64_t kReadOnly = 0x603000;   // 1 page
    static constexpr std::uint64_t kStack = 0x700000;      // 2 pages, writable
    static constexpr std::uint64_t kCodeAlias = 0x800000;  // the code pages again
    static constexpr std::uint64_t kPage = 4096;

    explicit TranslateTestMachine(TranslateOptions options = {},
                                  std::uint64_t cache_bytes = 4U << 20U,
                                  std::uint64_t ram_bytes = 2U << 20U)
        : vm_(FakeSoftVm::create(ram_bytes)), cpu_(*vm_->cpus()[0]) {
        fill_cpuid();
        map(kCode, kCodePhysical, 4, kWritable);
        map(kCodeAlias, kCodePhysical, 4, kWritable);
        map(kData, kDataPhysical, 2, kWritable);
        map(kReadOnly, kReadOnlyPhysical, 1, 0);
        map(kStack, kStackPhysical, 2, kWritable);
        reset();
        options.direct_faults = false;  // there is no IDT: exceptions are what the tests look at
        auto made = Translator::create(*vm_, options, cache_bytes);
        STRATA_CHECK(made.ok(), "no translator");
        translator_ = std::move(made).value();
        vm_->code = translator_.get();
    }

    CpuState& cpu() { return cpu_; }
    Translator& translator() { return *translator_; }
    FakeSoftVm& vm() { return *vm_; }
    std::byte* code(std::uint64_t offset = 0) { return vm_->ram->base() + kCodePhysical + offset; }
    std::span<std::byte> data() { return {vm_->ram->base() + kDataPhysical, 5 * kPage}; }

    /// Makes the page of `linear` show what the page of `other` shows. The TLB is the caller's.
    void remap(std::uint64_t linear, std::uint64_t other) {
        const auto entry = [](std::uint64_t at) {
            return kTables + ((at >> 21) & 15) * kPage + ((at >> 12) & 511) * 8;
        };
        std::memcpy(vm_->ram->base() + entry(linear), vm_->ram->base() + entry(other), 8);
    }

    /// Makes the page of `linear`, one of those mapped at the start, show another page of RAM.
    void remap_to(std::uint64_t linear, std::uint64_t physical) {
        map(linear, physical, 1, kWritable);
    }
    /// The first four GiB of the address space show four times the same.
    void repeat_gigabytes() {
        for (std::uint64_t i = 1; i < 4; ++i) {
            poke(kLevel3 + i * 8, kLevel2 | kPresent | kWritable | kUser);
        }
    }

    void load(std::span<const std::uint8_t> bytes, std::uint64_t offset = 0) {
        vm_->code->invalidate(nullptr, kCodePhysical + offset, bytes.size());
        std::memcpy(code(offset), bytes.data(), bytes.size());
    }

    // Long mode, CPL 0, flat, everything enabled, rip at kCode, rsp in the middle of the stack.
    void reset() {
        namespace x86 = arch::x86;
        CpuState& cpu = cpu_;
        cpu.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp | x86::cr0::kNe | x86::cr0::kMp;
        cpu.cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt | x86::cr4::kOsxsave;
        cpu.efer = x86::efer::kLme | x86::efer::kLma | x86::efer::kNxe;
        cpu.cr3 = kRoot;
        cpu.xcr0 = host_vector_mask();
        cpu.rflags = 2;
        for (Segment& segment : cpu.segments) {
            segment = {.selector = 16,
                       .attributes = 0xC093,
                       .limit = 0xFFFFFFFF,
                       .base = 0,
                       .unusable = false};
        }
        cpu.segments[x86::Cs] = {
            .selector = 8, .attributes = 0xA09B, .limit = 0xFFFFFFFF, .base = 0, .unusable = false};
        cpu.segments[x86::Fs].base = kData + 0x100;
        cpu.segments[x86::Gs].base = kData + 0x200;
        for (unsigned i = 0; i < 16; ++i) {
            cpu.gpr[i] = 0x1000 + i;
        }
        cpu.gpr[x86::Rsp] = kStack + kPage + 512;
        cpu.rip = kCode;
        cpu.exception = {};
        cpu.halted = false;
        cpu.request = 0;
        cpu.interrupt_shadow = false;
        cpu.vector_live = 0;
        reset_xsave(std::span<std::byte, arch::x86::kXsaveBytes>(cpu.xsave), 0x37f);
        update_mode(cpu);
        flush_tlb_all(cpu);
        privilege_changed(cpu);
    }

    ExecResult run_translated() {
        ExecResult result = ExecResult::Polled;
        for (int i = 0; i < 1000 && result == ExecResult::Polled; ++i) {
            finish_pending_rewrite(cpu_);
            cpu_.request = 0;
            result = translator_->run(cpu_);
        }
        return result;
    }
    ExecResult run_interpreted() {
        for (int i = 0; i < 100000; ++i) {
            switch (interpret_one(cpu_)) {
                case StepResult::Exception:
                    return ExecResult::Exception;
                case StepResult::Halted:
                    return ExecResult::Halted;
                case StepResult::TripleFault:
                    return ExecResult::TripleFault;
                default:
                    break;
            }
        }
        return ExecResult::Polled;
    }

    static constexpr std::uint64_t kCodePhysical = 0x80000, kDataPhysical = 0x90000,
                                   kReadOnlyPhysical = 0x92000, kStackPhysical = 0x93000;

  private:
    static constexpr std::uint64_t kRoot = 0x10000, kLevel3 = 0x11000, kLevel2 = 0x12000,
                                   kTables = 0x13000;
    static constexpr std::uint64_t kPresent = 1, kWritable = 2, kUser = 4;

    void poke(std::uint64_t at, std::uint64_t value) {
        std::memcpy(vm_->ram->base() + at, &value, 8);
    }

    void map(std::uint64_t linear, std::uint64_t physical, std::uint64_t pages,
             std::uint64_t bits) {
        constexpr std::uint64_t kAll = kPresent | kWritable | kUser;
        poke(kRoot, kLevel3 | kAll);
        poke(kLevel3, kLevel2 | kAll);
        for (std::uint64_t i = 0; i < pages; ++i) {
            const std::uint64_t at = linear + i * kPage;
            const std::uint64_t table = kTables + ((at >> 21) & 15) * kPage;
            poke(kLevel2 + ((at >> 21) & 511) * 8, table | kAll);
            poke(table + ((at >> 12) & 511) * 8, (physical + i * kPage) | kPresent | kUser | bits);
        }
    }

    void fill_cpuid() {
        for (const std::uint32_t leaf : {0U, 1U, 7U, 0xDU, 0x80000000U, 0x80000001U, 0x80000008U}) {
            for (std::uint32_t sub = 0; sub < (leaf == 7 || leaf == 0xD ? 3U : 1U); ++sub) {
                arch::x86::CpuidEntry entry;
                entry.leaf = leaf;
                entry.subleaf = sub;
                entry.subleaf_matters = leaf == 7 || leaf == 0xD;
                __cpuid_count(leaf, sub, entry.registers.eax, entry.registers.ebx,
                              entry.registers.ecx, entry.registers.edx);
                vm_->cpuid_table.entries.push_back(entry);
            }
        }
    }

    std::unique_ptr<FakeSoftVm> vm_;
    std::unique_ptr<Translator> translator_;
    CpuState& cpu_;
};

}  // namespace strata::engine::soft
