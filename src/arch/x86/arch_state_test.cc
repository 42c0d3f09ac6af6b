// ArchState: what is saved is what is loaded, and nonsense is refused.
#include "arch/x86/arch_state.h"

#include <gtest/gtest.h>

#include "arch/x86/cpuid.h"

namespace strata::arch::x86 {
namespace {

TEST(ArchStateTest, SavedStateComesBackWhole) {
    ArchState before = ArchState::power_on(3, false);
    before.gpr[R15] = 0x1234;
    before.msrs = {{0x174, 8}, {0xc0000082, 0xffffffff81000000}};
    before.events.nmis_pending = 2;
    state::StateWriter writer;
    before.save(writer);
    ArchState after;
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(after.load(reader).ok());
    EXPECT_EQ(before, after);
}

TEST(ArchStateTest, TruncatedStreamIsRefused) {
    state::StateWriter writer;
    ArchState::power_on(0, true).save(writer);
    ArchState state;
    state::StateReader reader(std::span(writer.bytes()).first(writer.bytes().size() / 2));
    EXPECT_FALSE(state.load(reader).ok());
}

TEST(CpuidTableTest, LeafPastTheLastBasicOneAnswersAsTheLast) {
    CpuidTable table;
    table.entries = {{0, 0, false, {1, 2, 3, 4}}, {1, 0, false, {5, 6, 7, 8}}};
    EXPECT_EQ(table.find(9, 0), (CpuidRegisters{5, 6, 7, 8}));
    EXPECT_EQ(table.find(0x40000000, 0), CpuidRegisters{});
}

}  // namespace
}  // namespace strata::arch::x86
