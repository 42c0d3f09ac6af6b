// Control flow, events, segments, strings, vectors and mode switches: expected state by the manual.
#include "engine/soft/interp/guest_fixture.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;
namespace vec = x86::vector;

using FlowTest = GuestFixture;

TEST_F(FlowTest, CallAndRet) {
    enter_long();
    code({0xe8, 0x01, 0, 0, 0, 0x90, 0xc2, 0x10, 0x00});  // call +1; nop; ret 16
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(cpu().rip, kCode + 6);
    EXPECT_EQ(peek<std::uint64_t>(kStack - 8), kCode + 5);
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(cpu().rip, kCode + 5);
    EXPECT_EQ(reg(x86::Rsp), kStack + 16);
}

TEST_F(FlowTest, UserInterruptGateSwitchesStackAndIretReturns) {
    enter_long(3);
    gate(0x80, kCode64, 0x2000, 14, 3);
    code({0xcd, 0x80});
    code({0x48, 0xcf}, 0x2000);  // iretq
    cpu().rflags |= fl::kIf;
    ASSERT_EQ(step(), StepResult::EndBlock);
    EXPECT_EQ(cpu().cpl, 0U);
    EXPECT_EQ(cpu().rip, 0x2000U);
    EXPECT_EQ(reg(x86::Rsp), 0x7000U - 40);
    EXPECT_EQ(cpu().rflags & fl::kIf, 0U);
    EXPECT_EQ(peek<std::uint64_t>(0x7000 - 40), kCode + 2);
    EXPECT_EQ(peek<std::uint64_t>(0x7000 - 16), kStack);
    ASSERT_EQ(step(), StepResult::EndBlock);
    EXPECT_EQ(cpu().cpl, 3U);
    EXPECT_EQ(cpu().rip, kCode + 2);
    EXPECT_EQ(reg(x86::Rsp), kStack);
    EXPECT_NE(cpu().rflags & fl::kIf, 0U);
}

TEST_F(FlowTest, IntThroughSupervisorGateIsRefused) {
    enter_long(3);
    gate(0x80, kCode64, 0x2000, 14, 0);
    code({0xcd, 0x80});
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0x80 * 8 + 2);
    EXPECT_EQ(cpu().rip, kCode);
}

TEST_F(FlowTest, PageFaultIsDeliveredWithErrorAndCr2) {
    enter_long(3);
    gate(14, kCode64, 0x3000);
    reg(x86::Rbx) = kAbsent;
    code({0x89, 0x03});  // mov [rbx], eax
    ASSERT_EQ(step(), StepResult::Exception);
    ASSERT_EQ(deliver_exception(cpu()), StepResult::EndBlock);
    EXPECT_EQ(cpu().cr2, kAbsent);
    EXPECT_EQ(peek<std::uint64_t>(reg(x86::Rsp)), 6U);
    EXPECT_EQ(peek<std::uint64_t>(reg(x86::Rsp) + 8), kCode);
    EXPECT_FALSE(cpu().exception.pending);
}

TEST_F(FlowTest, FaultWithoutHandlersBecomesTripleFault) {
    enter_long();
    cpu().idtr.limit = 0;
    code({0x0f, 0x0b});
    ASSERT_EQ(step(), StepResult::Exception);
    EXPECT_EQ(deliver_exception(cpu()), StepResult::TripleFault);
}

TEST_F(FlowTest, NotPresentGateInvokesDoubleFaultHandler) {
    enter_long();
    gate(8, kCode64, 0x4000);
    reg(x86::Rbx) = kAbsent;
    code({0x8b, 0x03});
    ASSERT_EQ(step(), StepResult::Exception);
    ASSERT_EQ(deliver_exception(cpu()), StepResult::EndBlock);
    EXPECT_EQ(cpu().rip, 0x4000U);
}

TEST_F(FlowTest, SyscallAndSysret) {
    enter_long(3);
    cpu().star =
        (static_cast<std::uint64_t>(0x1b) << 48U) | (static_cast<std::uint64_t>(kCode64) << 32U);
    cpu().lstar = 0x5000;
    cpu().sfmask = fl::kIf;
    cpu().rflags |= fl::kIf;
    code({0x0f, 0x05});
    code({0x48, 0x0f, 0x07}, 0x5000);
    ASSERT_EQ(step(), StepResult::EndBlock);
    EXPECT_EQ(cpu().cpl, 0U);
    EXPECT_EQ(reg(x86::Rcx), kCode + 2);
    EXPECT_EQ(cpu().rflags & fl::kIf, 0U);
    ASSERT_EQ(step(), StepResult::EndBlock);
    EXPECT_EQ(cpu().cpl, 3U);
    EXPECT_EQ(cpu().rip, kCode + 2);
    EXPECT_EQ(cpu().segments[x86::Cs].selector, 0x2bU);
}

TEST_F(FlowTest, SysretThatSetsTfTrapsAtItsTarget) {
    enter_long();
    cpu().star = static_cast<std::uint64_t>(0x1b) << 48U;
    reg(x86::Rcx) = 0x5000;
    reg(x86::R11) = fl::kTf | fl::kIf;
    code({0x48, 0x0f, 0x07});
    ASSERT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kDb);
    EXPECT_TRUE(cpu().exception.trap);
    EXPECT_EQ(cpu().rip, 0x5000U);
    EXPECT_EQ(cpu().cpl, 3U);
    EXPECT_NE(cpu().dr6 & (1U << 14U), 0U);
}

TEST_F(FlowTest, SysretThatClearsTfDoesNotTrap) {
    enter_long();
    cpu().star = static_cast<std::uint64_t>(0x1b) << 48U;
    cpu().rflags |= fl::kTf;
    update_mode(cpu());
    reg(x86::Rcx) = 0x5000;
    reg(x86::R11) = fl::kIf;
    code({0x48, 0x0f, 0x07});
    EXPECT_EQ(step(), StepResult::EndBlock);
    EXPECT_EQ(cpu().rip, 0x5000U);
}

TEST_F(FlowTest, SingleStepEndsAHalt) {
    enter_long();
    cpu().rflags |= fl::kTf;
    update_mode(cpu());
    code({0xf4});
    ASSERT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kDb);
    EXPECT_EQ(cpu().rip, kCode + 1);
    EXPECT_FALSE(cpu().halted);
}

TEST_F(FlowTest, WatchpointOfMovSsTrapsAfterTheNextInstruction) {
    enter_long();
    poke<std::uint16_t>(kData, cpu().segments[x86::Ss].selector);
    reg(x86::Rbx) = kData;
    cpu().dr[1] = kData;
    cpu().dr7 = 0x00f0040a;
    update_mode(cpu());
    code({0x8e, 0x13, 0xf1});  // mov ss, [rbx]; int1
    ASSERT_NE(step(), StepResult::Exception);
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kDb);
    EXPECT_TRUE(cpu().exception.trap);
    EXPECT_EQ(cpu().dr6 & 15U, 2U);
    EXPECT_EQ(cpu().rip, kCode + 3);
}

TEST_F(FlowTest, RealModeInterrupt) {
    enter_real();
    poke<std::uint32_t>(0x21 * 4, 0x01002000);
    code({0xcd, 0x21});
    ASSERT_EQ(step(), StepResult::EndBlock);
    EXPECT_EQ(cpu().rip, 0x2000U);
    EXPECT_EQ(cpu().segments[x86::Cs].base, 0x1000U);
    EXPECT_EQ(peek<std::uint16_t>(kStack - 6), kCode + 2);
}

TEST_F(FlowTest, RealToProtectedMode) {
    enter_real();
    cpu().gdtr = {kGdt, 0x7f};
    code({0x0f, 0x20, 0xc0,                         // mov eax, cr0
          0x0c, 0x01,                               // or al, 1
          0x0f, 0x22, 0xc0,                         // mov cr0, eax
          0x66, 0xea, 0x00, 0x20, 0, 0, 0x18, 0});  // jmp 18:2000
    ASSERT_EQ(run(4), StepResult::EndBlock);
    EXPECT_EQ(cpu().rip, 0x2000U);
    EXPECT_NE(cpu().mode & ModeBits::kCs32, 0U);
    EXPECT_NE(cpu().mode & ModeBits::kProtected, 0U);
}

TEST_F(FlowTest, LoadOfAbsentSegmentNamesIt) {
    enter_protected();
    reg(x86::Rax) = 0x38;
    code({0x8e, 0xd8});  // mov ds, ax
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kNp, 0x38);
    EXPECT_EQ(cpu().segments[x86::Ds].selector, kData32);
}

TEST_F(FlowTest, LimitViolation) {
    enter_protected();
    cpu().segments[x86::Ds].limit = 0x8fff;
    reg(x86::Rbx) = 0x8ffe;
    code({0x8b, 0x03});
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

TEST_F(FlowTest, RepMovsCopiesAcrossPagesAndFinishes) {
    enter_long();
    for (unsigned i = 0; i < 0x1800; ++i) {
        ram()[kData + i] = static_cast<std::byte>(i * 7);
    }
    reg(x86::Rsi) = kData;
    reg(x86::Rdi) = 0x30010;
    reg(x86::Rcx) = 0x1800;
    code({0xf3, 0xa4});
    for (unsigned i = 0; i < 64 && cpu().rip == kCode; ++i) {
        ASSERT_EQ(step(), StepResult::Done);
    }
    EXPECT_EQ(reg(x86::Rcx), 0U);
    EXPECT_EQ(std::memcmp(ram() + kData, ram() + 0x30010, 0x1800), 0);
}

TEST_F(FlowTest, RepStosStopsAtTheFault) {
    enter_long();
    reg(x86::Rdi) = kAbsent - 16;
    reg(x86::Rcx) = 4;
    code({0xf3, 0x48, 0xab});
    StepResult result = StepResult::Done;
    for (unsigned i = 0; i < 8 && result == StepResult::Done; ++i) {
        result = step();
    }
    EXPECT_EQ(result, StepResult::Exception);
    EXPECT_EQ(reg(x86::Rcx), 2U);
    EXPECT_EQ(reg(x86::Rdi), kAbsent);
    EXPECT_EQ(cpu().rip, kCode);
}

TEST_F(FlowTest, VectorAddOnGuestState) {
    enter_long();
    for (unsigned i = 0; i < 4; ++i) {
        poke<std::uint32_t>(kData + i * 4, i + 1);
    }
    reg(x86::Rbx) = kData;
    code({0x66, 0x0f, 0x6f, 0x03,          // movdqa xmm0, [rbx]
          0x66, 0x0f, 0xfe, 0xc0,          // paddd xmm0, xmm0
          0x66, 0x0f, 0x7f, 0x43, 0x10});  // movdqa [rbx+16], xmm0
    ASSERT_EQ(run(3), StepResult::Done);
    EXPECT_EQ(peek<std::uint32_t>(kData + 16 + 12), 8U);
    EXPECT_EQ(cpu().vector_live, 0U);
}

TEST_F(FlowTest, MisalignedVectorOperandIsGeneralProtection) {
    enter_long();
    reg(x86::Rbx) = kData + 4;
    code({0x0f, 0x28, 0x03});  // movaps xmm0, [rbx]
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

TEST_F(FlowTest, SingleStepTrapsAfterTheInstruction) {
    enter_long();
    cpu().rflags |= fl::kTf;
    update_mode(cpu());
    code({0x90});
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kDb);
    EXPECT_EQ(cpu().rip, kCode + 1);
    EXPECT_NE(cpu().dr6 & (1U << 14U), 0U);
}

TEST_F(FlowTest, PkruIsReadWrittenAndChecked) {
    vm_->cpuid_table.entry(7, 0)->registers.ecx |= 1U << 3;
    enter_long(3);
    prepare_interpreter_thread(cpu());
    code({0x0f, 0x01, 0xee});
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kUd);
    cpu().exception = {};
    cpu().cr4 |= x86::cr4::kPke;
    code({0x0f, 0x01, 0xef, 0x0f, 0x01, 0xee});  // wrpkru; rdpkru
    reg(x86::Rax) = 0xffffffff12345670;
    EXPECT_EQ(run(1), StepResult::EndBlock);
    reg(x86::Rdx) = ~0ULL;
    EXPECT_EQ(run(1), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0x12345670U);
    EXPECT_EQ(reg(x86::Rdx), 0U);
    cpu().rip = kCode;
    reg(x86::Rdx) = 1;
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

// XSAVE puts component 9 where CPUID says; XRSTOR without it in the header gives the initial value.
TEST_F(FlowTest, PkruTravelsInXsaveImages) {
    vm_->cpuid_table.entry(7, 0)->registers.ecx |= 1U << 3;
    vm_->cpuid_table.entries.push_back({0xd, 9, true, {8, 2688, 0, 0}});
    enter_long();
    prepare_interpreter_thread(cpu());
    cpu().xcr0 |= 1U << 9;
    write_pkru(cpu(), 0xabcd0004);
    reg(x86::Rax) = 1U << 9;
    reg(x86::Rbx) = kData;
    code(
        {0x0f, 0xae, 0x23, 0x0f, 0xae, 0x2b, 0x0f, 0xae, 0x2b});  // xsave [rbx]; xrstor [rbx] twice
    EXPECT_EQ(step(), StepResult::Done);
    EXPECT_EQ(peek<std::uint32_t>(kData + 2688), 0xabcd0004U);
    EXPECT_EQ(peek<std::uint64_t>(kData + 512), 1U << 9);
    write_pkru(cpu(), 1);
    EXPECT_EQ(step(), StepResult::Done);
    EXPECT_EQ(cpu().pkru, 0xabcd0004U);
    poke<std::uint64_t>(kData + 512, 0);
    EXPECT_EQ(step(), StepResult::Done);
    EXPECT_EQ(cpu().pkru, 0U);
}

}  // namespace
}  // namespace strata::engine::soft
