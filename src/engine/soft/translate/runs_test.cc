// Runs: accesses that share a check, and the iterations that a short loop gets.
#include <algorithm>

#include <gtest/gtest.h>

#include "engine/soft/decode/classify.h"
#include "engine/soft/translate/loops.h"

namespace strata::engine::soft {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::uint64_t kStart = 0x1000;

std::vector<Unit> units_of(const Bytes& code) {
    const IsaSupport isa = IsaSupport::everything();
    std::vector<Unit> units;
    for (std::size_t at = 0; at < code.size();) {
        Unit& unit = units.emplace_back();
        unit.rip = kStart + at;
        EXPECT_EQ(decode(code.data() + at, static_cast<std::uint32_t>(code.size() - at),
                         CodeMode::Bits64, isa, unit.insn),
                  DecodeStatus::Ok);
        at += unit.insn.length;
    }
    analyse_flags(units);
    return units;
}

std::size_t checks(const std::vector<Unit>& units) {
    return static_cast<std::size_t>(
        std::count_if(units.begin(), units.end(), [](const Unit& unit) { return unit.run_start; }));
}

TEST(RunsTest, IterationsOfALoopShareTheirChecks) {
    // mov rax, [r9]; add [rdi+rcx*8+8], rax; add r9, 8; dec rcx; jnz to the start
    std::vector<Unit> units = units_of({0x49, 0x8B, 0x01, 0x48, 0x01, 0x44, 0xCF, 0x08, 0x49, 0x83,
                                        0xC1, 0x08, 0x48, 0xFF, 0xC9, 0x75, 0xEF});
    ASSERT_TRUE(unroll_loop(units));
    ASSERT_EQ(units.size(), 4U * 5U);
    EXPECT_TRUE(units[4].goes_back && units[9].goes_back && units[14].goes_back);
    EXPECT_FALSE(units[19].goes_back);
    ASSERT_TRUE(group_base_accesses(units));
    EXPECT_EQ(checks(units), 2U);
    for (int i = 0; i < 4; ++i) {
        const auto at = static_cast<std::size_t>(i) * 5;
        EXPECT_EQ(units[at].displacement, 8 * i);
        EXPECT_EQ(units[at + 1].displacement, 24 - 8 * i);
    }
    EXPECT_EQ(units[1].run_low, 8 - 24);
    EXPECT_EQ(units[1].run_bytes, 32);
    EXPECT_TRUE(units[1].run_write);
    EXPECT_FALSE(units[0].run_write);
}

TEST(RunsTest, WhatStandsBeforeTheLoopIsNotRepeated) {
    // xor edx, edx; movsd xmm0, [rbx+rdx]; add rdx, 8; cmp rdx, 24; jne to the movsd
    std::vector<Unit> units = units_of({0x31, 0xD2, 0xF2, 0x0F, 0x10, 0x04, 0x13, 0x48, 0x83, 0xC2,
                                        0x08, 0x48, 0x83, 0xFA, 0x18, 0x75, 0xF1});
    ASSERT_TRUE(unroll_loop(units));
    ASSERT_EQ(units.size(), 1U + 4U * 4U);
    EXPECT_EQ(units[5].rip, units[1].rip);
    ASSERT_TRUE(group_base_accesses(units));
    EXPECT_EQ(checks(units), 1U);
}

TEST(RunsTest, UnknownChangesEndARun) {
    // mov rax, [rbx]; mov rbx, [rbx+8]; mov rcx, [rbx]; add ebx, 8; mov rdx, [rbx+8]
    std::vector<Unit> units = units_of({0x48, 0x8B, 0x03, 0x48, 0x8B, 0x5B, 0x08, 0x48, 0x8B, 0x0B,
                                        0x83, 0xC3, 0x08, 0x48, 0x8B, 0x53, 0x08});
    ASSERT_TRUE(group_base_accesses(units));
    EXPECT_EQ(checks(units), 1U);
    EXPECT_TRUE(units[0].run_start);
    EXPECT_EQ(units[2].slot, Unit::kNoSlot);
    EXPECT_EQ(units[4].slot, Unit::kNoSlot);
}

TEST(RunsTest, OtherBlocksAreNoLoops) {
    std::vector<Unit> on = units_of({0x48, 0x8B, 0x03, 0x75, 0x10});                // jnz forward
    std::vector<Unit> far = units_of({0x48, 0x8B, 0x03, 0x75, 0x80});               // … far back
    std::vector<Unit> call = units_of({0x48, 0x8B, 0x03, 0x0F, 0xA2, 0x75, 0xF9});  // a CPUID in it
    call[1].interpreted = true;
    EXPECT_FALSE(unroll_loop(on));
    EXPECT_FALSE(unroll_loop(far));
    EXPECT_FALSE(unroll_loop(call));
}

}  // namespace
}  // namespace strata::engine::soft
