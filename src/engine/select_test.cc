// Select: words and limits; engines that need the host are shown in tests/guests.
#include "engine/select.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/probe.h"

namespace strata::engine {
namespace {

using ::testing::HasSubstr;

TEST(SelectEngineTest, UnknownNameIsRefusedWithTheKnownOnes) {
    const auto choice = select_engine("xen");
    ASSERT_FALSE(choice.ok());
    EXPECT_EQ(choice.error().kind(), ErrorKind::InvalidArgument);
    EXPECT_THAT(choice.error().text(), HasSubstr("auto, kvm and soft"));
}

TEST(SelectEngineTest, SoftIsTakenWhenAskedFor) {
    auto choice = select_engine("soft");
    ASSERT_TRUE(choice.ok());
    EXPECT_EQ(choice->engine->name(), "soft");
}

TEST(JudgeKvmTest, HardwareSpeedIsUsable) {
    const Verdict verdict = judge_kvm(9000.0);
    EXPECT_TRUE(verdict.usable);
    EXPECT_THAT(verdict.reason, HasSubstr("9000 million"));
}

TEST(JudgeKvmTest, EmulatedKvmIsNotUsableAndSaysSo) {
    const Verdict verdict = judge_kvm(1.5);
    EXPECT_FALSE(verdict.usable);
    EXPECT_EQ(verdict.probe_mips, 1.5);
    EXPECT_THAT(verdict.reason, HasSubstr("emulates"));
}

TEST(JudgeKvmTest, TheLimitItselfIsSane) {
    EXPECT_TRUE(judge_kvm(kSaneMips).usable);
}

}  // namespace
}  // namespace strata::engine
