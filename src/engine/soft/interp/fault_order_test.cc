// Fault order: which of several faults an instruction reports, and what a faulting instruction
// leaves behind, as processors do it.
#include "engine/soft/interp/guest_fixture.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

namespace vec = x86::vector;

class FaultOrderTest : public GuestFixture {
  protected:
    void expect_page_fault(std::uint64_t address, int error = 0) {
        ASSERT_EQ(step(), StepResult::Exception);
        expect_exception(vec::kPf, error);
        EXPECT_EQ(cpu().exception.fault_address, address);
    }
};

TEST_F(FaultOrderTest, EndBeyondTheCanonicalHalfGoesBeforeThePageFault) {
    enter_long();
    reg(x86::Rbx) = 0x7ffffffffffc;
    code({0x48, 0x89, 0x03});  // mov [rbx], rax
    ASSERT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
    cpu().exception = {};
    code({0x48, 0x8b, 0x03});  // mov rax, [rbx]
    ASSERT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

TEST_F(FaultOrderTest, CmpsReportsItsDestination) {
    enter_long();
    reg(x86::Rsi) = kAbsent;
    reg(x86::Rdi) = kAbsent + 8;
    code({0xa6});
    expect_page_fault(kAbsent + 8);
}

TEST_F(FaultOrderTest, RepThatFaultsAtOnceLeavesTheCounter) {
    enter_long();
    reg(x86::Rcx) = 0x500000002;
    reg(x86::Rsi) = kAbsent;
    code({0x67, 0xf3, 0xac});  // a32 rep lodsb
    expect_page_fault(kAbsent);
    EXPECT_EQ(reg(x86::Rcx), 0x500000002U);
}

TEST_F(FaultOrderTest, OfBothRepeatPrefixesTheLastCounts) {
    enter_long();
    poke<std::uint16_t>(kData, 0x0505);
    reg(x86::Rax) = 5;
    reg(x86::Rcx) = 2;
    reg(x86::Rdi) = kData;
    code({0xf2, 0xf3, 0xae});  // repe scasb
    ASSERT_EQ(run(1), StepResult::Done);
    EXPECT_EQ(reg(x86::Rcx), 0U);
}

TEST_F(FaultOrderTest, MaskmovqFaultsAtItsBaseAndLeavesX87Mode) {
    enter_long();
    cpu().xsave[512] = std::byte{3};
    cpu().xsave[3] = std::byte{0x08};  // TOP = 1: MM1 is ST(0)
    cpu().xsave[32 + 5] = std::byte{0x80};
    reg(x86::Rdi) = kAbsent;
    code({0x0f, 0xf7, 0xc9});  // maskmovq mm1, mm1
    expect_page_fault(kAbsent, 2);
    EXPECT_EQ(cpu().xsave[3], std::byte{0});
    EXPECT_EQ(cpu().xsave[32 + 16 + 5], std::byte{0x80});  // ST(1) now
}

TEST_F(FaultOrderTest, MaskmovdquChecksItsBaseWithoutAnyByte) {
    enter_long();
    reg(x86::Rdi) = 0x800000000000;
    code({0x66, 0x0f, 0xf7, 0xc9});  // maskmovdqu xmm1, xmm1
    ASSERT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

TEST_F(FaultOrderTest, MaskmovdquReachesItsSecondPageWithoutAnyByteThere) {
    enter_long();
    std::memset(cpu().xsave + 160, 0, 32);
    cpu().xsave[160 + 16] = std::byte{0x80};
    cpu().xsave[512] = std::byte{3};
    reg(x86::Rdi) = kAbsent - 1;
    code({0x66, 0x0f, 0xf7, 0xc1});  // maskmovdqu xmm0, xmm1
    expect_page_fault(kAbsent, 2);
}

TEST_F(FaultOrderTest, PendingX87ExceptionGoesBeforeTheOperandsFault) {
    enter_long();
    cpu().xsave[512] = std::byte{3};
    cpu().xsave[0] = std::byte{0x7b};  // FCW: zero divide unmasked
    cpu().xsave[2] = std::byte{0x84};  // FSW: ZE, ES
    reg(x86::Rbx) = kAbsent;
    code({0xdd, 0x3b, 0xdc, 0x03});  // fnstsw [rbx]; fadd qword [rbx]
    expect_page_fault(kAbsent, 2);
    cpu().exception = {};
    cpu().rip = kCode + 2;
    ASSERT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kMf);
}

TEST_F(FaultOrderTest, HostFaultThatNothingExplainsIsInvalidOpcode) {
    enter_long();
    Op op;
    constexpr std::uint8_t kAdd[] = {0x48, 0x03, 0x03};  // add rax, [rbx]
    ASSERT_EQ(decode(kAdd, sizeof(kAdd), CodeMode::Bits64, context(cpu()).isa, op.insn),
              DecodeStatus::Ok);
    EXPECT_FALSE(run_with_operand(cpu(), op, reinterpret_cast<std::byte*>(64)));
    expect_exception(vec::kUd);
}

TEST_F(FaultOrderTest, GatherThatFaultsKeepsWhatItDidNotReach) {
    enter_long();
    if (__builtin_cpu_supports("avx2") != 0) {
        std::uint64_t state = 0;
        std::memcpy(&state, cpu().xsave + 512, 8);
        state |= 7;
        std::memcpy(cpu().xsave + 512, &state, 8);
        const std::uint64_t mask[2] = {0x8000000080000001, 0x8000000000000000};
        const std::uint32_t indices[4] = {0, static_cast<std::uint32_t>(kAbsent - kData), 0, 0};
        std::memcpy(cpu().xsave + 160 + 2 * 16, mask, 16);
        std::memcpy(cpu().xsave + 160 + 1 * 16, indices, 16);
        poke<std::uint32_t>(kData, 0x1234);
        reg(x86::Rax) = kData;
        code({0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08});  // vpgatherdd xmm0, [rax+xmm1], xmm2
        expect_page_fault(kAbsent);
        std::uint64_t left[2];
        std::memcpy(left, cpu().xsave + 160 + 2 * 16, 16);
        EXPECT_EQ(left[0], 0x8000000000000000U);
        EXPECT_EQ(left[1], mask[1]);
        std::uint32_t gathered = 0;
        std::memcpy(&gathered, cpu().xsave + 160, 4);
        EXPECT_EQ(gathered, 0x1234U);
    }
}

}  // namespace
}  // namespace strata::engine::soft
