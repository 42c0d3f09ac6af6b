// Tests of floating blocks: one block serves every address that its page is mapped at.
#include <gtest/gtest.h>
#include <unistd.h>

#include "engine/soft/mmu/mmu.h"
#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;

constexpr unsigned kRax = 0, kRcx = 1, kRdx = 2, kRbx = 3, kRsp = 4;
constexpr std::uint64_t kTop = Machine::kStack + Machine::kPage + 512;

TranslateOptions floating() {
    TranslateOptions options;
    options.float_all = true;
    return options;
}

std::uint64_t blocks(Machine& machine) {
    return machine.translator().counters().blocks.load();
}

// Runs what is loaded at `start`, from a fresh state but for the registers that `set` changes.
template <typename Set>
ExecResult run_at(Machine& machine, std::uint64_t start, Set set) {
    machine.reset();
    machine.cpu().rip = start;
    set(machine.cpu());
    return machine.run_translated();
}
ExecResult run_at(Machine& machine, std::uint64_t start) {
    return run_at(machine, start, [](CpuState&) {});
}

// Calls, direct and indirect, to its own page and the next, flags across them, its own address,
// data behind it.
void load_program(Machine& machine) {
    machine.load(Bytes{0xB9, 0x64, 0x00, 0x00, 0x00,              // mov ecx, 100
                       0x31, 0xDB,                                // xor ebx, ebx
                       0xE8, 0xF4, 0x0F, 0x00, 0x00,              // again: call page 1
                       0x83, 0xD3, 0x00,                          // adc ebx, 0
                       0x48, 0x8D, 0x15, 0x14, 0x00, 0x00, 0x00,  // lea rdx, [near]
                       0xFF, 0xD2,                                // call rdx
                       0x03, 0x1D, 0xE2, 0x1F, 0x00, 0x00,        // add ebx, [page 2]
                       0xFF, 0xC9,                                // dec ecx
                       0x75, 0xE5,                                // jnz again
                       0x48, 0x8D, 0x05, 0xDC, 0xFF, 0xFF, 0xFF,  // lea rax, [start + 5]
                       0xF4,                                      // hlt
                       0x83, 0xC3, 0x02,                          // near: add ebx, 2
                       0xC3});
    machine.load(Bytes{0x83, 0xF9, 0x0B,                    // cmp ecx, 11: carry below
                       0xE9, 0x00, 0x00, 0x00, 0x00,        // jmp the next instruction
                       0x48, 0x8B, 0x05, 0xF1, 0x0F, 0x00,  // mov rax, [page 2]
                       0x00, 0xC3},
                 0x1000);
    machine.load(Bytes{0x05, 0x00, 0x00, 0x00, 0, 0, 0, 0}, 0x2000);
}

void expect_program(Machine& machine, std::uint64_t start) {
    EXPECT_EQ(run_at(machine, start), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRbx], 10U + 200U + 500U);
    EXPECT_EQ(machine.cpu().gpr[kRax], start + 5);
    EXPECT_EQ(machine.cpu().gpr[kRsp], kTop);
}

TEST(FloatingTest, OneTranslationServesTwoAddresses) {
    Machine machine(floating());
    load_program(machine);
    expect_program(machine, Machine::kCode);
    const std::uint64_t before = blocks(machine);
    const std::uint64_t exits = machine.translator().counters().site_exits.load();
    for (int i = 0; i < 3; ++i) {
        expect_program(machine, Machine::kCodeAlias);
        expect_program(machine, Machine::kCode);
    }
    EXPECT_EQ(blocks(machine), before);
    EXPECT_LE(machine.translator().counters().site_exits.load(), exits + 6);  // the end of each run
    Machine fixed;
    load_program(fixed);
    expect_program(fixed, Machine::kCode);
    const std::uint64_t once = blocks(fixed);
    expect_program(fixed, Machine::kCodeAlias);
    EXPECT_GE(blocks(fixed), 2 * once);
}

TEST(FloatingTest, WithoutTheHostsCallsToo) {
    TranslateOptions options = floating();
    options.return_stack = false;
    Machine machine(options);
    load_program(machine);
    expect_program(machine, Machine::kCode);
    expect_program(machine, Machine::kCodeAlias);
}

TEST(FloatingTest, FaultsAndExceptionsAreAtTheAddressInUse) {
    Machine machine(floating());
    machine.load(Bytes{0x90, 0x48, 0x8B, 0x08, 0xF4});         // nop; mov rcx, [rax]; hlt
    machine.load(Bytes{0x90, 0x31, 0xC9, 0xF7, 0xF1}, 0x100);  // nop; xor ecx, ecx; div ecx
    machine.load(Bytes{0x90, 0x0F, 0x0B}, 0x200);              // nop; ud2
    machine.load(Bytes{0x90, 0xFF, 0x20}, 0x300);              // nop; jmp [rax]
    machine.load(Bytes{0x31, 0xC9, 0xFF, 0xE0}, 0x400);        // xor ecx, ecx; jmp rax
    machine.load(Bytes{0x90, 0x48, 0x8B, 0x0D, 0, 0, 0xF0, 0x7F}, 0x500);  // mov rcx, [rip+far]
    const std::uint64_t nowhere = Machine::kData + 0x2000;
    for (int i = 0; i < 3; ++i) {
        for (const std::uint64_t start : {Machine::kCodeAlias, Machine::kCode}) {
            const auto to = [](std::uint64_t value) {
                return [value](CpuState& cpu) { cpu.gpr[kRax] = value; };
            };
            const auto expect = [&](std::uint8_t vector, std::uint64_t offset) {
                EXPECT_EQ(machine.cpu().exception.vector, vector);
                EXPECT_EQ(machine.cpu().rip, start + offset);
            };
            EXPECT_EQ(run_at(machine, start, to(nowhere)), ExecResult::Exception);
            expect(arch::x86::vector::kPf, 1);
            EXPECT_EQ(machine.cpu().exception.fault_address, nowhere);
            EXPECT_EQ(run_at(machine, start, to(Machine::kData + 0xFFC)), ExecResult::Halted);
            EXPECT_EQ(run_at(machine, start + 0x100), ExecResult::Exception);
            expect(arch::x86::vector::kDe, 0x103);
            EXPECT_EQ(run_at(machine, start + 0x200), ExecResult::Exception);
            expect(arch::x86::vector::kUd, 0x201);
            EXPECT_EQ(run_at(machine, start + 0x300, to(nowhere)), ExecResult::Exception);
            expect(arch::x86::vector::kPf, 0x301);
            EXPECT_EQ(run_at(machine, start + 0x400, to(1ULL << 47U)), ExecResult::Exception);
            expect(arch::x86::vector::kGp, 0x402);
            EXPECT_EQ(run_at(machine, start + 0x500), ExecResult::Exception);
            expect(arch::x86::vector::kPf, 0x501);
            EXPECT_EQ(machine.cpu().exception.fault_address, start + 0x508 + 0x7FF00000);
        }
    }
}

TEST(FloatingTest, AnotherPageBehindTheSameJumpIsSeen) {
    Machine machine(floating());
    machine.load(Bytes{0xE9, 0xFB, 0x0F, 0x00, 0x00});                // jmp to page 1
    machine.load(Bytes{0xB8, 0x01, 0x00, 0x00, 0x00, 0xF4}, 0x1000);  // mov eax, 1; hlt
    machine.load(Bytes{0xB8, 0x02, 0x00, 0x00, 0x00, 0xF4}, 0x2000);  // mov eax, 2; hlt
    machine.remap(Machine::kCodeAlias + 0x1000, Machine::kCode + 0x2000);
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(run_at(machine, Machine::kCode), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], 1U);
        EXPECT_EQ(run_at(machine, Machine::kCodeAlias), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], 2U);
    }
    const auto go_on = [&machine] {
        machine.cpu().rip = Machine::kCode;
        machine.cpu().halted = false;
        return machine.run_translated();
    };
    EXPECT_EQ(run_at(machine, Machine::kCode), ExecResult::Halted);
    machine.remap(Machine::kCode + 0x1000, Machine::kCode + 0x2000);
    flush_tlb_page(machine.cpu(), Machine::kCode + 0x1000);
    EXPECT_EQ(go_on(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 2U);
}

TEST(FloatingTest, TwoAddressesOfOnePageInOneRun) {
    Machine machine(floating());
    // Calls the same page's function at both of its addresses, and each returns to its own.
    machine.load(Bytes{0xB9, 0x64, 0x00, 0x00, 0x00,              // mov ecx, 100
                       0x31, 0xDB,                                // xor ebx, ebx
                       0xE8, 0x14, 0x00, 0x40, 0x00,              // again: call f + 4 MiB
                       0x48, 0x01, 0xC3,                          // add rbx, rax
                       0xE8, 0x0C, 0x00, 0x00, 0x00,              // call f
                       0x48, 0x29, 0xC3,                          // sub rbx, rax
                       0xFF, 0xC9,                                // dec ecx
                       0x75, 0xEC,                                // jnz again
                       0xF4, 0x90, 0x90, 0x90, 0x90,              // hlt
                       0x48, 0x8D, 0x05, 0xF9, 0xFF, 0xFF, 0xFF,  // f: lea rax, [f]
                       0xC3});
    EXPECT_EQ(run_at(machine, Machine::kCode), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRbx], 100 * (Machine::kCodeAlias - Machine::kCode));
    EXPECT_EQ(machine.cpu().gpr[kRsp], kTop);
}

TEST(FloatingTest, InstructionAcrossPagesDependsOnTheSecondOfItsAddress) {
    Machine machine(floating());
    machine.load(Bytes{0xB8, 0x05, 0x00}, 0xFFD);  // mov eax, 5 …
    machine.load(Bytes{0x00, 0x00, 0x01, 0xC3,     // … add ebx, eax
                       0xFF, 0xC9, 0x75, 0xF5, 0xF4},
                 0x1000);  // dec ecx; jnz to the mov; hlt
    machine.load(Bytes{0x00, 0x01, 0x01, 0xC3, 0xFF, 0xC9, 0x75, 0xF5, 0xF4}, 0x2000);
    machine.remap(Machine::kCodeAlias + 0x1000, Machine::kCode + 0x2000);
    const auto set = [](CpuState& cpu) {
        cpu.gpr[kRbx] = 0;
        cpu.gpr[kRcx] = 100;
    };
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(run_at(machine, Machine::kCode + 0xFFD, set), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRbx], 500U);
        EXPECT_EQ(run_at(machine, Machine::kCodeAlias + 0xFFD, set), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRbx], 100U * 0x1000005U);
    }
}

// An instruction across two pages whose RAM pages are `apart`, reached by an indirect jump each
// time.
void expect_across(std::uint64_t apart, std::uint64_t ram_bytes) {
    constexpr std::uint64_t kHole = 3ULL << 30U, kHoleBytes = 1ULL << 30U;
    const std::uint64_t offset = Machine::kCodePhysical + apart;
    Machine machine(floating(), 4U << 20U, ram_bytes);
    machine.remap_to(Machine::kCode + 0x1000, offset < kHole ? offset : offset + kHoleBytes);
    machine.load(Bytes{0xB8, 0x05, 0x00}, 0xFFD);  // mov eax, 5 …
    const Bytes rest = {
        0x00, 0x00, 0x01, 0xC3, 0xFF, 0xC9,
        0x74, 0x02, 0xFF, 0xE2, 0xF4};  // … add ebx, eax; dec ecx; jz to the hlt; jmp rdx
    std::memcpy(machine.vm().ram->base() + offset, rest.data(), rest.size());
    const auto set = [](CpuState& cpu) {
        cpu.gpr[kRbx] = 0;
        cpu.gpr[kRcx] = 100;
        cpu.gpr[kRdx] = Machine::kCode + 0xFFD;
    };
    alarm(20);  // where this fails it does not end
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(run_at(machine, Machine::kCode + 0xFFD, set), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRbx], 500U);
    }
    alarm(0);
}

TEST(FloatingTest, InstructionAcrossPagesOfOneHome) {
    constexpr std::uint64_t kApart = std::uint64_t{TranslatorState::kCodeHomes} * Machine::kPage;
    expect_across(kApart, kApart + (2U << 20U));
}

TEST(FloatingTest, InstructionIntoAPageThatHasNoHome) {
#ifdef STRATA_SANITIZED
    GTEST_SKIP() << "sanitizers have no room for so much RAM";
#else
    constexpr std::uint64_t kApart = TranslatorState::kRamPagesWithHome * Machine::kPage;
    constexpr std::uint64_t kRam = kApart + (2U << 20U);
    if (!memory::GuestRam::create(kRam, 3ULL << 30U).ok()) {
        GTEST_SKIP() << "no room for 256 GiB of RAM, of which a few pages are touched";
    }
    expect_across(kApart, kRam);
#endif
}

// The jump reaches 2 GiB far only because it stands near the end of its page.
TEST(FloatingTest, JumpTwoGibibytesAhead) {
    Machine machine(floating());
    machine.repeat_gigabytes();
    machine.load(Bytes{0x48, 0x8D, 0x05, 0xF9, 0xFF, 0xFF, 0xFF, 0xF4}, 0x100);  // lea rax, [here]
    machine.load(Bytes{0xE9, 0x0B, 0xF1, 0xFF, 0x7F}, 0xFF0);  // jmp 2 GiB ahead of that
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(run_at(machine, Machine::kCode + 0xFF0), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], Machine::kCode + 0x80000100);
    }
}

TEST(FloatingTest, StoresToItsOwnCodeTakeEffect) {
    Machine machine(floating());
    machine.load(Bytes{0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x2A,  // mov byte [rip+1], 42
                       0xB8, 0x01, 0x00, 0x00, 0x00,              // mov eax, 1: becomes 42
                       0xF4});
    for (const std::uint64_t start : {Machine::kCode, Machine::kCodeAlias, Machine::kCode}) {
        machine.load(Bytes{0xB8, 0x01}, 7);
        EXPECT_EQ(run_at(machine, start), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], 42U);
    }
}

TEST(FloatingTest, LoopsOverTheirOwnPagesWork) {
    Machine machine(floating());
    machine.load(Bytes{0x31, 0xC0, 0x31, 0xD2,                    // xor eax, eax; xor edx, edx
                       0x48, 0x8D, 0x35, 0xF5, 0x0F, 0x00, 0x00,  // lea rsi, [page 1]
                       0x90, 0x90, 0x90, 0x90, 0x90, 0x02, 0x05,
                       0xEA, 0x1F, 0x00, 0x00,  // again: add al, [page 2]
                       0x02, 0x04, 0x16,        // add al, [rsi + rdx]
                       0x48, 0x83, 0xC2, 0x01,  // add rdx, 1
                       0x48, 0x83, 0xFA, 0x40,  // cmp rdx, 64
                       0x75, 0xED, 0xF4});      // jnz again
    machine.load(Bytes(64, 1), 0x1000);
    machine.load(Bytes{2}, 0x2000);
    for (const std::uint64_t start : {Machine::kCode, Machine::kCodeAlias, Machine::kCode}) {
        EXPECT_EQ(run_at(machine, start), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax] & 0xFF, 192U);
        EXPECT_EQ(machine.cpu().gpr[kRdx], 64U);
    }
}

}  // namespace
}  // namespace strata::engine::soft
