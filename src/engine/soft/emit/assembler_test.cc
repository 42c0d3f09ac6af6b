// Tests of the Assembler: what it writes is what a decoder reads.
#include "engine/soft/emit/assembler.h"

#include <algorithm>
#include <array>
#include <string>

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

using enum Reg;

class AssemblerTest : public testing::Test {
  protected:
    static constexpr std::uint64_t kAddress = 0x10000;
    AssemblerTest() : a_(buffer_, kAddress) {}

    // Everything emitted so far in Intel syntax, instructions separated by "; ".
    std::string text() {
        (void)a_.code();
        std::string result;
        for (std::size_t at = 0; at < a_.offset();) {
            ZydisDecoder decoder;
            ZydisFormatter formatter;
            ZydisDecodedInstruction insn;
            ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
            ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
            ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
            if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, buffer_.data() + at,
                                                     a_.offset() - at, &insn, operands))) {
                return result + "(bad)";
            }
            char one[96];
            (void)ZydisFormatterFormatInstruction(&formatter, &insn, operands,
                                                  insn.operand_count_visible, one, sizeof one,
                                                  kAddress + at, nullptr);
            result += result.empty() ? one : std::string("; ") + one;
            at += insn.length;
        }
        return result;
    }

    std::array<std::uint8_t, 4096> buffer_{};
    Assembler a_;
};

TEST_F(AssemblerTest, MovesNameTheRightRegisters) {
    a_.mov(Rax, R15);
    a_.mov32(R9, Rdi);
    a_.load(R10, Mem::at(Rbp));
    a_.load(R10, Mem::at(R13, 200));
    a_.store(Mem::at(R12, -8), Rbx);
    a_.store(Mem::at(Rsp, 16), R11);
    EXPECT_EQ(text(),
              "mov rax, r15; mov r9d, edi; mov r10, [rbp]; mov r10, [r13+0xC8]; mov [r12-0x08], "
              "rbx; mov [rsp+0x10], r11");
}

TEST_F(AssemblerTest, AddressesWithIndexAndGs) {
    a_.lea(R10, Mem::at(R10, R11, 8, -4));
    a_.lea(Rax, Mem::at(Rbp, Rbx, 1, 0));
    a_.load(R11, Mem::gs_at(0x88));
    a_.alu(Alu::Cmp, OpSize::Bits64, R10, Mem::gs_at(R11, 0x1234));
    a_.lea(Rdx, Mem{.index = 12, .scale = 4, .disp = 0x55});
    EXPECT_EQ(text(),
              "lea r10, [r10+r11*8-0x04]; lea rax, [rbp+rbx*1]; mov r11, gs:[0x0000000000000088]; "
              "cmp r10, gs:[r11+0x1234]; "
              "lea rdx, [r12*4+0x55]");
}

TEST_F(AssemblerTest, ConstantsTakeTheShortestForm) {
    a_.mov_imm(R10, 5);
    a_.mov_imm(Rax, 0xFFFFFFFF80000000ULL);
    a_.mov_imm(R11, 0x123456789AULL);
    EXPECT_EQ(text(), "mov r10d, 0x05; mov rax, 0xFFFFFFFF80000000; mov r11, 0x123456789A");
}

TEST_F(AssemblerTest, ImmediatesAndShifts) {
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, R10, 4088);
    a_.alu_imm(Alu::And, OpSize::Bits32, R11, 0x7FE0);
    a_.alu_imm(Alu::Cmp, OpSize::Bits32, Mem::gs_at(4), 0);
    a_.rorx(OpSize::Bits32, R11, R10, 7);
    a_.rorx(OpSize::Bits64, Rax, Rbx, 12);
    a_.shl_imm(OpSize::Bits32, R11, 4);
    EXPECT_EQ(text(),
              "cmp r10, 0xFF8; and r11d, 0x7FE0; cmp dword ptr gs:[0x0000000000000004], 0x00; rorx "
              "r11d, r10d, 0x07; "
              "rorx rax, rbx, 0x0C; shl r11d, 0x04");
}

TEST_F(AssemblerTest, LabelsReachForwardsAndBackwards) {
    const Label back = a_.label();
    const Label ahead = a_.label();
    a_.bind(back);
    a_.jcc(Cond::Ne, ahead);
    a_.jmp(back);
    a_.jrcxz(ahead);
    a_.bind(ahead);
    a_.ret();
    EXPECT_EQ(text(),
              "jnz 0x000000000001000D; jmp 0x0000000000010000; jrcxz 0x000000000001000D; ret");
}

TEST_F(AssemblerTest, ColdCodeRunsElsewhere) {
    const Label cold = a_.label();
    const Label back = a_.label();
    a_.jcc(Cond::E, cold);
    a_.bind(back);
    a_.ret();
    EXPECT_EQ(a_.here(), kAddress + 7);
    a_.begin_cold(kAddress + 0x1000);
    a_.bind(cold);
    EXPECT_EQ(a_.here(), kAddress + 0x1000);
    a_.call_to(kAddress + 0x2000);
    a_.jmp(back);
    EXPECT_EQ(a_.hot_size(), 7U);
    const std::array<std::uint8_t, 7> hot{0x0F, 0x84, 0xFA, 0x0F, 0x00, 0x00, 0xC3};
    const std::array<std::uint8_t, 10> elsewhere{0xE8, 0xFB, 0x0F, 0x00, 0x00,
                                                 0xE9, 0xFC, 0xEF, 0xFF, 0xFF};
    EXPECT_TRUE(std::ranges::equal(a_.hot(), hot));
    EXPECT_TRUE(std::ranges::equal(a_.cold(), elsewhere));
}

TEST_F(AssemblerTest, OverflowIsStickyAndWritesNothing) {
    std::array<std::uint8_t, 3> small{};
    Assembler a(small, 0);
    a.mov(Rax, Rbx);
    EXPECT_FALSE(a.overflowed());
    a.ret();
    EXPECT_TRUE(a.overflowed());
    EXPECT_EQ(a.offset(), 3U);
}

TEST_F(AssemblerTest, PatchedFieldsStayWithinALine) {
    while (a_.offset() < 61) {
        a_.byte(0x90);
    }
    a_.align_patch(1);
    EXPECT_EQ(a_.here() + 1, kAddress + 64);
}

}  // namespace
}  // namespace strata::engine::soft
