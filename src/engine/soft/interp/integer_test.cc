// Integer instructions: results and flags against values from the manual's definitions, and exact
// state at faults.
#include "engine/soft/interp/guest_fixture.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;
namespace vec = x86::vector;

using IntegerTest = GuestFixture;

TEST_F(IntegerTest, AddSetsCarryZeroAdjust) {
    enter_long();
    reg(x86::Rax) = ~0ULL;
    reg(x86::Rbx) = 1;
    code({0x48, 0x01, 0xd8});  // add rax, rbx
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0U);
    EXPECT_EQ(arithmetic(), fl::kCf | fl::kZf | fl::kAf | fl::kPf);
    EXPECT_EQ(cpu().rip, kCode + 3);
}

TEST_F(IntegerTest, SubOverflow) {
    enter_long();
    reg(x86::Rax) = 0x80000000;
    code({0x83, 0xe8, 0x01});  // sub eax, 1
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0x7fffffffU);
    EXPECT_EQ(arithmetic(), fl::kOf | fl::kAf | fl::kPf);
}

TEST_F(IntegerTest, AdcAndSbbUseCarry) {
    enter_long();
    cpu().rflags |= fl::kCf;
    reg(x86::Rax) = 1;
    code({0x48, 0x83, 0xd0, 0x01,    // adc rax, 1
          0x48, 0x83, 0xd8, 0x03});  // sbb rax, 3
    ASSERT_EQ(run(2), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0U);
}

TEST_F(IntegerTest, HighByteRegisters) {
    enter_long();
    reg(x86::Rax) = 0x1234;
    reg(x86::Rbx) = 0xff00;
    code({0x00, 0xfc,              // add ah, bh
          0x48, 0x0f, 0xb6, 0xc8,  // movzx rcx, al
          0x0f, 0xb6, 0xd4,        // movzx edx, ah
          0xb4, 0x55});            // mov ah, 0x55
    ASSERT_EQ(run(4), StepResult::Done);
    EXPECT_EQ(reg(x86::Rcx), 0x34U);
    EXPECT_EQ(reg(x86::Rdx), 0x11U);
    EXPECT_EQ(reg(x86::Rax), 0x5534U);
}

TEST_F(IntegerTest, WritesOf32BitsClearTheUpperHalf) {
    enter_long();
    reg(x86::Rax) = ~0ULL;
    reg(x86::Rcx) = ~0ULL;
    code({0x31, 0xc0,          // xor eax, eax
          0x66, 0x31, 0xc9});  // xor cx, cx
    ASSERT_EQ(run(2), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0U);
    EXPECT_EQ(reg(x86::Rcx), 0xffffffffffff0000ULL);
}

TEST_F(IntegerTest, ShiftByZeroKeepsFlags) {
    enter_long();
    cpu().rflags |= fl::kCf | fl::kOf;
    reg(x86::Rcx) = 32;
    reg(x86::Rax) = 5;
    code({0xd3, 0xe0});  // shl eax, cl
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 5U);
    EXPECT_EQ(arithmetic(), fl::kCf | fl::kOf);
}

TEST_F(IntegerTest, RotateTouchesOnlyCarryAndOverflow) {
    enter_long();
    cpu().rflags |= fl::kZf | fl::kSf;
    reg(x86::Rax) = 0x80000001;
    code({0xc1, 0xc0, 0x01});  // rol eax, 1
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 3U);
    EXPECT_EQ(arithmetic(), fl::kZf | fl::kSf | fl::kCf | fl::kOf);
}

TEST_F(IntegerTest, MulAndDiv) {
    enter_long();
    reg(x86::Rax) = 0x100000000ULL;
    reg(x86::Rcx) = 0x300000000ULL;
    code({0x48, 0xf7, 0xe1,    // mul rcx
          0x48, 0xf7, 0xf1});  // div rcx
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rdx), 3U);
    EXPECT_EQ(reg(x86::Rax), 0U);
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0x100000000ULL);
    EXPECT_EQ(reg(x86::Rdx), 0U);
}

TEST_F(IntegerTest, DivideByZeroLeavesRegisters) {
    enter_long();
    reg(x86::Rax) = 7;
    reg(x86::Rdx) = 1;
    code({0x48, 0xf7, 0xf3});  // div rbx
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kDe);
    EXPECT_EQ(reg(x86::Rax), 7U);
    EXPECT_EQ(reg(x86::Rdx), 1U);
    EXPECT_EQ(cpu().rip, kCode);
}

TEST_F(IntegerTest, RspAsOperandIsTheGuests) {
    enter_long();
    reg(x86::Rcx) = 3;
    code({0x48, 0x0f, 0xaf, 0xe1});  // imul rsp, rcx
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rsp), kStack * 3);
}

TEST_F(IntegerTest, LockedAddWorksInPlace) {
    enter_long();
    reg(x86::Rbx) = kData;
    reg(x86::Rax) = 5;
    poke<std::uint32_t>(kData, 10);
    code({0xf0, 0x01, 0x03,          // lock add [rbx], eax
          0xf0, 0x0f, 0xc1, 0x03});  // lock xadd [rbx], eax
    ASSERT_EQ(run(2), StepResult::Done);
    EXPECT_EQ(peek<std::uint32_t>(kData), 20U);
    EXPECT_EQ(reg(x86::Rax), 15U);
}

TEST_F(IntegerTest, Cmpxchg16bAlignmentAndSuccess) {
    enter_long();
    reg(x86::Rsi) = kData;
    poke<std::uint64_t>(kData, 1);
    poke<std::uint64_t>(kData + 8, 2);
    reg(x86::Rax) = 1;
    reg(x86::Rdx) = 2;
    reg(x86::Rbx) = 3;
    reg(x86::Rcx) = 4;
    code({0xf0, 0x48, 0x0f, 0xc7, 0x0e,          // lock cmpxchg16b [rsi]
          0xf0, 0x48, 0x0f, 0xc7, 0x4e, 0x08});  // lock cmpxchg16b [rsi+8]
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(peek<std::uint64_t>(kData), 3U);
    EXPECT_EQ(peek<std::uint64_t>(kData + 8), 4U);
    EXPECT_TRUE((cpu().rflags & fl::kZf) != 0);
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

TEST_F(IntegerTest, LoadFromAbsentPageFaultsExactly) {
    enter_long();
    reg(x86::Rbx) = kAbsent + 0x10;
    reg(x86::Rax) = 0x55;
    code({0x48, 0x03, 0x03});  // add rax, [rbx]
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kPf, 0);
    EXPECT_EQ(cpu().exception.fault_address, kAbsent + 0x10);
    EXPECT_EQ(reg(x86::Rax), 0x55U);
    EXPECT_EQ(arithmetic(), 0U);
}

TEST_F(IntegerTest, ReadModifyWriteOnReadOnlyPageIsAWriteFault) {
    enter_long();
    reg(x86::Rbx) = kReadOnly;
    code({0x48, 0x83, 0x03, 0x01});  // add qword [rbx], 1
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kPf, 3);
}

TEST_F(IntegerTest, StoreAcrossIntoAbsentPageWritesNothing) {
    enter_long();
    reg(x86::Rbx) = kAbsent - 4;
    reg(x86::Rax) = ~0ULL;
    code({0x48, 0x87, 0x03});  // xchg [rbx], rax
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kPf, 2);
    EXPECT_EQ(cpu().exception.fault_address, kAbsent);
    EXPECT_EQ(peek<std::uint32_t>(kAbsent - 4), 0U);
    EXPECT_EQ(reg(x86::Rax), ~0ULL);
}

TEST_F(IntegerTest, CrossPageReadModifyWrite) {
    enter_long();
    poke<std::uint64_t>(kData + 0xffc, 0x11);
    reg(x86::Rbx) = kData + 0xffc;
    code({0x48, 0xd1, 0x23});  // shl qword [rbx], 1
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(peek<std::uint64_t>(kData + 0xffc), 0x22U);
}

TEST_F(IntegerTest, BitStringReachesBeyondItsOperand) {
    enter_long();
    reg(x86::Rbx) = kData + 64;
    reg(x86::Rcx) = static_cast<std::uint64_t>(-1);
    code({0x48, 0x0f, 0xab, 0x0b});  // bts [rbx], rcx: bit -1
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(peek<std::uint64_t>(kData + 56), 1ULL << 63U);
    EXPECT_EQ(arithmetic() & fl::kCf, 0U);
}

TEST_F(IntegerTest, NonCanonicalAddressIsGeneralProtection) {
    enter_long();
    reg(x86::Rbx) = 0x8000000000000000ULL;
    code({0x8b, 0x03});  // mov eax, [rbx]
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kGp, 0);
}

TEST_F(IntegerTest, NonCanonicalThroughStackIsStackFault) {
    enter_long();
    reg(x86::Rsp) = 0x8000000000000000ULL;
    code({0x50});  // push rax
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kSs, 0);
    EXPECT_EQ(reg(x86::Rsp), 0x8000000000000000ULL);
}

TEST_F(IntegerTest, IncInThirtyTwoBitModeIsReencoded) {
    enter_protected();
    reg(x86::Rsp) = 0x41;
    cpu().rflags |= fl::kCf;
    code({0x44, 0x4b, 0xa1, 0x00, 0x90, 0x00, 0x00});  // inc esp; dec ebx; mov eax, [0x9000]
    poke<std::uint32_t>(kData, 0xabcd);
    ASSERT_EQ(run(3), StepResult::Done);
    EXPECT_EQ(reg(x86::Rsp), 0x42U);
    EXPECT_EQ(reg(x86::Rbx), 0xffffffffU);
    EXPECT_EQ(reg(x86::Rax), 0xabcdU);
    EXPECT_TRUE((cpu().rflags & fl::kCf) != 0);
}

TEST_F(IntegerTest, DecimalAdjust) {
    enter_protected();
    reg(x86::Rax) = 0x79;
    reg(x86::Rbx) = 0x35;
    code({0x00, 0xd8, 0x27,  // add al, bl; daa: SDM's example gives 14 with carry
          0xd4, 0x0a,        // aam
          0xd5, 0x0a});      // aad
    ASSERT_EQ(run(2), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax) & 0xffU, 0x14U);
    EXPECT_TRUE((cpu().rflags & fl::kCf) != 0);
    ASSERT_EQ(run(1), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax) & 0xffffU, 0x0200U);
    ASSERT_EQ(run(1), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax) & 0xffffU, 0x0014U);
}

TEST_F(IntegerTest, BoundOutsideRaises) {
    enter_protected();
    poke<std::uint32_t>(kData, 1);
    poke<std::uint32_t>(kData + 4, 5);
    reg(x86::Rbx) = kData;
    reg(x86::Rax) = 6;
    code({0x62, 0x03});  // bound eax, [ebx]
    EXPECT_EQ(step(), StepResult::Exception);
    expect_exception(vec::kBr);
}

TEST_F(IntegerTest, SixteenBitOperandsInRealMode) {
    enter_real();
    reg(x86::Rax) = 0x1ffff;
    reg(x86::Rbx) = 0x9000;
    code({0x05, 0x02, 0x00,  // add ax, 2
          0x89, 0x07,        // mov [bx], ax
          0xf7, 0x27});      // mul word [bx]
    ASSERT_EQ(run(3), StepResult::Done);
    EXPECT_EQ(peek<std::uint16_t>(kData), 1U);
    EXPECT_EQ(reg(x86::Rax), 0x10001U);
    EXPECT_EQ(reg(x86::Rdx), 0U);
}

TEST_F(IntegerTest, SelfModifiedCodeIsSeen) {
    enter_long();
    code({0xb0, 0x01});  // mov al, 1
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 1U);
    code({0xb0, 0x02});
    cpu().rip = kCode;
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 2U);
}

TEST_F(IntegerTest, InstructionAcrossPages) {
    enter_long();
    code({0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, 0x1ffc);  // mov rax, imm64
    cpu().rip = 0x1ffc;
    ASSERT_EQ(step(), StepResult::Done);
    EXPECT_EQ(reg(x86::Rax), 0x0807060504030201ULL);
}

TEST_F(IntegerTest, InstructionIntoAbsentPageFaultsAtThatPage) {
    enter_long();
    code({0x48, 0xb8, 1, 2}, kAbsent - 4);
    cpu().rip = kAbsent - 4;
    EXPECT_EQ(step(), StepResult::Exception);
    EXPECT_EQ(cpu().exception.vector, vec::kPf);
    EXPECT_EQ(cpu().exception.fault_address, kAbsent);
}

}  // namespace
}  // namespace strata::engine::soft
