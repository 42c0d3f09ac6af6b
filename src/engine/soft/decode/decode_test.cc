// Tests of decode(): offsets, operands, masks and classes that the interpreter and the translator
// rely on.
#include <vector>

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include "arch/x86/arch_state.h"
#include "arch/x86/registers.h"
#include "engine/soft/decode/classify.h"
#include "engine/soft/decode/instruction.h"

namespace strata::engine::soft {
namespace {

using arch::x86::R10;
using arch::x86::Rax;
using arch::x86::Rbx;
using arch::x86::Rcx;
using arch::x86::Rdx;
using arch::x86::Rsp;

Instruction decoded(const std::vector<std::uint8_t>& bytes, CodeMode mode = CodeMode::Bits64) {
    Instruction insn;
    const IsaSupport isa = IsaSupport::everything();
    EXPECT_EQ(decode(bytes.data(), static_cast<std::uint32_t>(bytes.size()), mode, isa, insn),
              DecodeStatus::Ok);
    EXPECT_EQ(insn.length, bytes.size());
    return insn;
}

constexpr std::uint16_t mask(std::initializer_list<int> registers) {
    std::uint16_t result = 0;
    for (const int reg : registers) {
        result = static_cast<std::uint16_t>(result | (1U << static_cast<unsigned>(reg)));
    }
    return result;
}

TEST(DecodeTest, AddWithSibHasAllOffsets) {
    // add qword ptr [r10 + rbx*4 + 0x12345678], 0x11
    const Instruction insn = decoded({0x49, 0x83, 0x84, 0x9a, 0x78, 0x56, 0x34, 0x12, 0x11});
    EXPECT_EQ(insn.cls, InsnClass::Copy);
    EXPECT_EQ(insn.rex_offset, 0);
    EXPECT_EQ(insn.opcode_offset, 1);
    EXPECT_EQ(insn.modrm_offset, 2);
    EXPECT_EQ(insn.sib_offset, 3);
    EXPECT_EQ(insn.disp_offset, 4);
    EXPECT_EQ(insn.disp_size, 4);
    EXPECT_EQ(insn.imm_offset[0], 8);
    EXPECT_EQ(insn.imm[0], 0x11);
    EXPECT_EQ(insn.operand_size, 8);
    EXPECT_TRUE(insn.mem.present && insn.mem.read && insn.mem.write);
    EXPECT_EQ(insn.mem.base, R10);
    EXPECT_EQ(insn.mem.index, Rbx);
    EXPECT_EQ(insn.mem.scale, 4);
    EXPECT_EQ(insn.mem.size, 8);
    EXPECT_EQ(insn.gpr_read, mask({R10, Rbx}));
    EXPECT_EQ(insn.gpr_write, 0);
    EXPECT_EQ(insn.flags_written & arch::x86::rflags::kArithmetic, arch::x86::rflags::kArithmetic);
}

TEST(DecodeTest, PartialWriteAlsoReads) {
    const Instruction insn = decoded({0xb4, 0x12});  // mov ah, 0x12
    EXPECT_TRUE(insn.uses_high_byte);
    EXPECT_EQ(insn.gpr_write, mask({Rax}));
    EXPECT_EQ(insn.gpr_read, mask({Rax}));
}

TEST(DecodeTest, ImplicitRegistersOfMul) {
    const Instruction insn = decoded({0x48, 0xf7, 0xe1});  // mul rcx
    EXPECT_EQ(insn.gpr_read, mask({Rax, Rcx}));
    EXPECT_EQ(insn.gpr_write, mask({Rax, Rdx}));
}

TEST(DecodeTest, RipRelativeLoad) {
    const Instruction insn =
        decoded({0x48, 0x8b, 0x05, 0xfc, 0xff, 0xff, 0xff});  // mov rax, [rip-4]
    EXPECT_EQ(insn.mem.base, kRipRegister);
    EXPECT_EQ(insn.mem.displacement, -4);
}

TEST(DecodeTest, StackSegmentIsDefaultForRsp) {
    const Instruction insn = decoded({0x48, 0x8b, 0x44, 0x24, 0x08});  // mov rax, [rsp+8]
    EXPECT_EQ(insn.mem.segment, arch::x86::Ss);
    EXPECT_EQ(insn.mem.base, Rsp);
}

TEST(DecodeTest, VexRegistersComeFromBytes) {
    const Instruction insn = decoded({0xc4, 0xc1, 0x71, 0x58, 0x02});  // vaddpd xmm0, xmm1, [r10]
    EXPECT_EQ(insn.cls, InsnClass::CopyVector);
    EXPECT_EQ(insn.vector, VectorKind::Avx);
    EXPECT_EQ(insn.encoding, Encoding::Vex);
    EXPECT_EQ(insn.vvvv, 1);
    EXPECT_EQ(insn.mem.base, R10);
    EXPECT_EQ(insn.mem.size, 16);
    EXPECT_FALSE(insn.mem.aligned);
    EXPECT_EQ(insn.opcode_offset, 3);
}

TEST(DecodeTest, MaskedEvexMemoryIsSpecial) {
    const Instruction insn =
        decoded({0x62, 0xf1, 0x7c, 0x49, 0x10, 0x00});  // vmovups zmm0{k1}, [rax]
    EXPECT_EQ(insn.cls, InsnClass::Special);
    EXPECT_EQ(insn.vector, VectorKind::Avx512);
    EXPECT_EQ(insn.mask, 1);
    EXPECT_EQ(insn.mem.size, 64);
    EXPECT_EQ(insn.element_count, 16);
    EXPECT_EQ(insn.mem.element_size, 4);
}

TEST(DecodeTest, LegacySseNeedsAlignmentAndItsUnalignedFormsDoNot) {
    EXPECT_TRUE(decoded({0x0f, 0x28, 0x00}).mem.aligned);         // movaps
    EXPECT_TRUE(decoded({0x66, 0x0f, 0xfe, 0x00}).mem.aligned);   // paddd
    EXPECT_FALSE(decoded({0x0f, 0x10, 0x00}).mem.aligned);        // movups
    EXPECT_FALSE(decoded({0xf2, 0x0f, 0x58, 0x00}).mem.aligned);  // addsd
}

TEST(DecodeTest, ClassesOfControlFlow) {
    EXPECT_EQ(decoded({0x74, 0x02}).cls, InsnClass::Jcc);
    EXPECT_EQ(decoded({0xeb, 0x02}).cls, InsnClass::Jmp);
    EXPECT_EQ(decoded({0xff, 0xe0}).cls, InsnClass::JmpIndirect);
    EXPECT_EQ(decoded({0xff, 0x28}).cls, InsnClass::FarFlow);
    EXPECT_EQ(decoded({0xe8, 0, 0, 0, 0}).cls, InsnClass::Call);
    EXPECT_EQ(decoded({0xff, 0xd0}).cls, InsnClass::CallIndirect);
    EXPECT_EQ(decoded({0xc3}).cls, InsnClass::Ret);
    EXPECT_EQ(decoded({0xcb}).cls, InsnClass::FarFlow);
    EXPECT_EQ(decoded({0xe3, 0x00}).cls, InsnClass::Loop);
    EXPECT_EQ(decoded({0x48, 0xcf}).cls, InsnClass::FarFlow);
    EXPECT_EQ(decoded({0x74, 0xfe}).imm[0], -2);
}

TEST(DecodeTest, ClassesOfTheRest) {
    EXPECT_EQ(decoded({0x48, 0x8d, 0x00}).cls, InsnClass::Lea);
    EXPECT_EQ(decoded({0xf3, 0x48, 0xa5}).cls, InsnClass::String);
    EXPECT_TRUE(decoded({0xf3, 0x48, 0xa5}).rep);
    EXPECT_EQ(decoded({0x50}).cls, InsnClass::Stack);
    EXPECT_EQ(decoded({0x8e, 0xd8}).cls, InsnClass::Segment);
    EXPECT_EQ(decoded({0x0f, 0xa1}).cls, InsnClass::Segment);
    EXPECT_EQ(decoded({0x0f, 0x22, 0xd8}).cls, InsnClass::System);
    EXPECT_EQ(decoded({0xec}).cls, InsnClass::Io);
    EXPECT_EQ(decoded({0x0f, 0xab, 0x08}).cls, InsnClass::Special);     // bts [rax], ecx
    EXPECT_EQ(decoded({0x0f, 0xba, 0x28, 0x03}).cls, InsnClass::Copy);  // bts dword [rax], 3
    EXPECT_EQ(decoded({0x0f, 0x0b}).cls, InsnClass::Undefined);         // ud2
    EXPECT_EQ(decoded({0xf3, 0x90}).cls, InsnClass::Fence);
    EXPECT_EQ(decoded({0xf3, 0x0f, 0x1e, 0xfa}).cls, InsnClass::Nop);         // endbr64
    EXPECT_EQ(decoded({0xf2, 0x0f, 0x10, 0x00}).cls, InsnClass::CopyVector);  // movsd xmm0, [rax]
    EXPECT_EQ(decoded({0xf2, 0x0f, 0x38, 0xf0, 0xc0}).vector, VectorKind::None);  // crc32
    EXPECT_EQ(decoded({0xd6}, CodeMode::Bits32).cls, InsnClass::Special);         // salc
}

TEST(DecodeTest, FeaturesNotAdvertisedAreUndefined) {
    Instruction insn;
    const IsaSupport none{arch::x86::CpuidTable{}};
    const std::uint8_t popcnt[] = {0xf3, 0x0f, 0xb8, 0xc0};
    EXPECT_EQ(decode(popcnt, sizeof popcnt, CodeMode::Bits64, none, insn), DecodeStatus::Ok);
    EXPECT_EQ(insn.cls, InsnClass::Undefined);
    // Without BMI1, F3 0F BC is BSF.
    const std::uint8_t tzcnt[] = {0xf3, 0x0f, 0xbc, 0xc0};
    EXPECT_EQ(decode(tzcnt, sizeof tzcnt, CodeMode::Bits64, none, insn), DecodeStatus::Ok);
    EXPECT_EQ(insn.mnemonic, ZYDIS_MNEMONIC_BSF);
    EXPECT_FALSE(insn.mandatory_f3);
}

TEST(DecodeTest, TruncatedAndTooLong) {
    Instruction insn;
    const IsaSupport isa = IsaSupport::everything();
    const std::uint8_t part[] = {0x48, 0x8b};
    EXPECT_EQ(decode(part, sizeof part, CodeMode::Bits64, isa, insn), DecodeStatus::Truncated);
    const std::uint8_t prefixes[15] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                       0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66};
    EXPECT_EQ(decode(prefixes, sizeof prefixes, CodeMode::Bits64, isa, insn),
              DecodeStatus::TooLong);
    const std::uint8_t bad[] = {0xf0, 0x90};  // LOCK NOP
    EXPECT_EQ(decode(bad, sizeof bad, CodeMode::Bits64, isa, insn), DecodeStatus::Invalid);
}

TEST(DecodeTest, PauseWithRexBIsAnExchange) {
    const Instruction insn = decoded({0xf3, 0x41, 0x90});
    EXPECT_EQ(insn.mnemonic, ZYDIS_MNEMONIC_XCHG);
    EXPECT_EQ(insn.opcode_reg, arch::x86::R8);
    EXPECT_EQ(insn.bytes[0], 0xf3);
    EXPECT_EQ(decoded({0xf3, 0x48, 0x90}).mnemonic, ZYDIS_MNEMONIC_PAUSE);
}

TEST(DecodeTest, SibWithoutBaseUnderAddressSizePrefix) {
    const Instruction insn = decoded(
        {0x67, 0x45, 0x33, 0x04, 0xdd, 0xf5, 0xc0, 0x78, 0xd5});  // xor r8d, [ebx*8-0x2a873f0b]
    EXPECT_EQ(insn.mem.base, kNoRegister);
    EXPECT_EQ(insn.mem.index, arch::x86::Rbx);
    EXPECT_EQ(insn.mem.displacement, -0x2a873f0b);
}

TEST(DecodeTest, EvexXDoesNotExtendGeneralRegisters) {
    const Instruction insn =
        decoded({0x62, 0xb1, 0x0e, 0x78, 0x2a, 0xdc});  // vcvtsi2ss xmm3, xmm14, esp
    EXPECT_TRUE(insn.rm_is_gpr);
    EXPECT_EQ(insn.rm, arch::x86::Rsp);
}

TEST(DecodeTest, BroadcastLanesAreTheDestinations) {
    EXPECT_EQ(decoded({0x62, 0x71, 0x7c, 0x3e, 0x5a, 0x0b}).broadcast_lanes,
              4);  // vcvtps2pd ymm9 {k6}, [rbx] {1to4}
}

TEST(DecodeTest, BitScansReadTheirDestination) {
    EXPECT_EQ(decoded({0x4d, 0x0f, 0xbc, 0xcc}).gpr_read, 1U << 9 | 1U << 12);  // bsf r9, r12
}

TEST(DecodeTest, SixteenBitAddressing) {
    const Instruction insn = decoded({0x8b, 0x42, 0x10}, CodeMode::Real16);  // mov ax, [bp+si+0x10]
    EXPECT_EQ(insn.operand_size, 2);
    EXPECT_EQ(insn.address_size, 2);
    EXPECT_EQ(insn.mem.base, arch::x86::Rbp);
    EXPECT_EQ(insn.mem.index, arch::x86::Rsi);
    EXPECT_EQ(insn.mem.segment, arch::x86::Ss);
    EXPECT_EQ(insn.mem.displacement, 0x10);
}

}  // namespace
}  // namespace strata::engine::soft
