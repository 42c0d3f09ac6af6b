// Tests of what a block has checked while others withdraw it: a split lock waits for all other
// vCPUs, who may make code of pages that the block goes on to write.
#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;

constexpr unsigned kRax = 0, kRcx = 1, kRdx = 2, kRbx = 3, kR9 = 9;

const Bytes kLockAdd = {0xF0, 0x48, 0x01, 0x0A};        // lock add [rdx], rcx
const Bytes kLockBts = {0xF0, 0x48, 0x0F, 0xAB, 0x0A};  // lock bts [rdx], rcx

Bytes join(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (const Bytes& part : parts) {
        all.insert(all.end(), part.begin(), part.end());
    }
    return all;
}

// A machine in which `physical` becomes a page of code whenever a lock is split.
void withdraw_at_locks(Machine& machine, std::uint64_t physical) {
    machine.vm().others = [&machine, physical] {
        machine.vm().protect_code_page(machine.cpu(), physical / Machine::kPage);
    };
    machine.cpu().gpr[kRdx] = Machine::kData + 0xFFC;
    machine.cpu().gpr[kRcx] = 1;
}

// A store of the stack's group faults then; guest r9 is in a scratch register.
void expect_stack_store(const Bytes& lock, const TranslateOptions& options = {}) {
    Machine machine(options);
    machine.load(join({{0x48, 0x89, 0x44, 0x24, 0x08},  // mov [rsp+8], rax
                       lock,
                       {0x4D, 0x8D, 0x49, 0x05,              // lea r9, [r9+5]
                        0x48, 0x89, 0x5C, 0x24, 0x10,        // mov [rsp+16], rbx
                        0x4D, 0x01, 0xC9, 0x4C, 0x89, 0xC8,  // add r9, r9; mov rax, r9
                        0xF4}}));
    withdraw_at_locks(machine, Machine::kStackPhysical + Machine::kPage);
    machine.cpu().gpr[kR9] = 100;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kR9], 210U);
    EXPECT_EQ(machine.cpu().gpr[kRax], 210U);
}

// A store of a run off rbx must be noticed, since the page holds code then.
void expect_run_store(const Bytes& lock, const TranslateOptions& options = {}) {
    Machine machine(options);
    machine.load(join({{0x48, 0x89, 0x03}, lock, {0x48, 0x89, 0x43, 0x08, 0xF4}}));
    withdraw_at_locks(machine, Machine::kDataPhysical);
    machine.cpu().gpr[kRbx] = Machine::kData + 64;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().translator.idle_stores, 1U);
}

TEST(WithdrawnChecksTest, BehindAnAccessOfTheInterpreters) {
    expect_stack_store(kLockAdd);
    expect_run_store(kLockAdd);
}
TEST(WithdrawnChecksTest, BehindADecodedCall) {
    expect_stack_store(kLockBts);
    expect_run_store(kLockBts);
}
TEST(WithdrawnChecksTest, BehindAnInstructionOfTheInterpreters) {
    TranslateOptions options;
    options.direct_system = false;
    expect_stack_store(kLockBts, options);
    expect_run_store(kLockBts, options);
}

TEST(WithdrawnChecksTest, AlignedMaskedLoadAcrossPagesIsRefused) {
    if (!__builtin_cpu_supports("avx512f")) {
        GTEST_SKIP() << "no AVX-512";
    }
    for (const std::uint64_t at : {0xFE0U, 0xF90U}) {
        Machine machine;
        machine.load(Bytes{0xB8, 0x01, 0x00, 0x00, 0x00,                // mov eax, 1
                           0xC5, 0xF8, 0x92, 0xC8,                      // kmovw k1, eax
                           0x62, 0xF1, 0x7D, 0x49, 0x6F, 0x07, 0xF4});  // vmovdqa32 zmm0{k1}, [rdi]
        machine.cpu().gpr[7] = Machine::kData + at;
        EXPECT_EQ(machine.run_translated(), ExecResult::Exception);
        EXPECT_EQ(machine.cpu().exception.vector, arch::x86::vector::kGp);
        EXPECT_EQ(machine.cpu().rip, Machine::kCode + 9);
    }
}

}  // namespace
}  // namespace strata::engine::soft
