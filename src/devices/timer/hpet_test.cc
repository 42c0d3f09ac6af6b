// Hpet: registers, one-shot and periodic comparators, levels, FSB, legacy replacement, lost ticks,
// state.
#include "devices/timer/hpet.h"

#include <map>

#include <gtest/gtest.h>

#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

constexpr std::uint64_t kEnable = 1, kLegacy = 2;
constexpr std::uint64_t kLevel = 2, kInterrupt = 4, kPeriodic = 8, kSetValue = 0x40,
                        k32Bits = 0x100, kFsb = 0x4000;
constexpr std::uint64_t kRoute20 = 20U << 9;
constexpr std::uint64_t kMillisecond = 1'000'000;
constexpr std::uint64_t kTicksPerMs = kMillisecond / Hpet::kPeriod;

struct Wired {
    std::uint64_t get(std::uint64_t offset) { return peek(hpet, offset, 8); }
    void set(std::uint64_t offset, std::uint64_t value) { poke(hpet, offset, value, 8); }
    void pass(std::uint64_t nanoseconds) {
        time.pass(nanoseconds);
        hpet.advance();
    }
    FakeTime time;
    std::map<std::uint32_t, FakeLine> gsis;
    FakeLine irq0;
    FakeLine irq8;
    FakeMsiSink msi;
    Hpet hpet{*time.loop, time.clock,
              Hpet::Wiring{[this](std::uint32_t gsi) -> bus::IrqLine& { return gsis[gsi]; },
                           0x00f00000, &irq0, &irq8, &msi}};
};

class HpetTest : public ::testing::Test, protected Wired {};

TEST_F(HpetTest, CapabilitiesNamePeriodAndTimers) {
    EXPECT_EQ(get(0x000), 0x00989680'8086a201U);
    EXPECT_EQ(peek(hpet, 4, 4), 10'000'000U);
    EXPECT_EQ(get(0x100), 0x00f00000'00008030U);
    EXPECT_EQ(get(0x160), ~std::uint64_t{0});
    EXPECT_EQ(peek(hpet, 0xf2, 2), 0xffffU);
}

TEST_F(HpetTest, CounterRunsOnlyWhileEnabled) {
    set(0x0f0, 1000);
    pass(kMillisecond);
    EXPECT_EQ(get(0x0f0), 1000U);
    set(0x010, kEnable);
    pass(kMillisecond);
    EXPECT_EQ(get(0x0f0), 1000U + kTicksPerMs);
    set(0x0f0, 0);  // not while running
    set(0x010, 0);
    pass(kMillisecond);
    EXPECT_EQ(get(0x0f0), 1000U + kTicksPerMs);
}

TEST_F(HpetTest, OneShotPulsesItsRoute) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20);
    set(0x108, kTicksPerMs);
    pass(kMillisecond - 10);
    EXPECT_EQ(gsis[20].rises, 0U);
    pass(10);
    EXPECT_EQ(gsis[20].rises, 1U);
    pass(100 * kMillisecond);
    EXPECT_EQ(gsis[20].rises, 1U);
}

TEST_F(HpetTest, PastComparatorOf64BitsNeverMatches) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20);
    pass(kMillisecond);
    set(0x108, 5);
    pass(1000 * kMillisecond);
    EXPECT_EQ(gsis[20].rises, 0U);
}

TEST_F(HpetTest, ComparatorOf32BitsMatchesAtEveryWrap) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20 | k32Bits);
    set(0x108, kTicksPerMs);
    pass(kMillisecond);
    EXPECT_EQ(gsis[20].rises, 1U);
    pass((std::uint64_t{1} << 32) * Hpet::kPeriod);
    EXPECT_EQ(gsis[20].rises, 2U);
}

TEST_F(HpetTest, UnofferedRouteGoesNowhere) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | 3U << 9);
    set(0x108, 1);
    pass(kMillisecond);
    EXPECT_TRUE(gsis.empty());
}

TEST_F(HpetTest, PeriodicAsLinuxSetsItUp) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20 | kPeriodic | kSetValue | k32Bits);
    set(0x108, kTicksPerMs);
    set(0x108, 2 * kTicksPerMs);
    pass(kMillisecond);
    EXPECT_EQ(gsis[20].rises, 1U);
    EXPECT_EQ(get(0x108), 3 * kTicksPerMs);
    pass(kMillisecond);
    EXPECT_EQ(gsis[20].rises, 1U);
    pass(kMillisecond);
    EXPECT_EQ(gsis[20].rises, 2U);
}

TEST_F(HpetTest, MissedTicksFollowOneByOne) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20 | kPeriodic | kSetValue);
    set(0x108, kTicksPerMs);
    pass(3 * kMillisecond);
    EXPECT_EQ(gsis[20].rises, 1U);
    pass(kMillisecond / 4);
    EXPECT_EQ(gsis[20].rises, 2U);
    pass(kMillisecond / 4);
    EXPECT_EQ(gsis[20].rises, 3U);
    pass(kMillisecond / 4);
    EXPECT_EQ(gsis[20].rises, 3U);
}

TEST_F(HpetTest, ShortestPeriodDoesNotStorm) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20 | kPeriodic | kSetValue);
    set(0x108, 1);
    for (int step = 0; step < 1000; ++step) {
        pass(1000);
    }
    EXPECT_LE(gsis[20].rises, 21U);
}

TEST_F(HpetTest, LevelHoldsUntilStatusIsCleared) {
    set(0x010, kEnable);
    set(0x100, kInterrupt | kLevel | kRoute20);
    set(0x108, 1);
    pass(kMillisecond);
    EXPECT_TRUE(gsis[20].level);
    EXPECT_EQ(get(0x020), 1U);
    set(0x020, 1);
    EXPECT_FALSE(gsis[20].level);
    EXPECT_EQ(get(0x020), 0U);
}

TEST_F(HpetTest, FsbSendsAMessage) {
    set(0x010, kEnable);
    set(0x130, 0xfee00000'00000055);
    set(0x120, kInterrupt | kFsb);
    set(0x128, 1);
    pass(kMillisecond);
    ASSERT_EQ(msi.messages.size(), 1U);
    EXPECT_EQ(msi.messages[0], (bus::MsiMessage{0xfee00000, 0x55}));
}

TEST_F(HpetTest, LegacyReplacementTakesTheLinesOver) {
    hpet.pit_input().pulse();
    hpet.rtc_input().set(true);
    EXPECT_EQ(irq0.rises, 1U);
    EXPECT_TRUE(irq8.level);
    set(0x010, kEnable | kLegacy);
    EXPECT_FALSE(irq8.level);
    hpet.pit_input().pulse();
    EXPECT_EQ(irq0.rises, 1U);
    set(0x100, kInterrupt);
    set(0x108, get(0x0f0) + kTicksPerMs);
    pass(kMillisecond);
    EXPECT_EQ(irq0.rises, 2U);
    set(0x010, kEnable);
    EXPECT_TRUE(irq8.level);
}

TEST_F(HpetTest, HalvesCanBeWrittenAlone) {
    poke(hpet, 0x0f0, 0x11111111, 4);
    poke(hpet, 0x0f4, 0x22222222, 4);
    EXPECT_EQ(get(0x0f0), 0x22222222'11111111U);
}

TEST_F(HpetTest, SavedStateContinuesInAFreshOne) {
    Wired other;
    set(0x010, kEnable);
    set(0x100, kInterrupt | kRoute20 | kPeriodic | kSetValue);
    set(0x108, kTicksPerMs);
    set(0x120, kInterrupt | kLevel | 21U << 9);
    set(0x128, 1);
    pass(kMillisecond / 2);
    ASSERT_TRUE(hpet.pause().ok());
    ASSERT_TRUE(other.hpet.pause().ok());
    other.time.at(time.clock.now());
    const auto stream = transplant(hpet, other.hpet);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.hpet.resume().ok());
    EXPECT_TRUE(other.gsis[21].level);
    EXPECT_EQ(other.get(0x0f0), kTicksPerMs / 2);
    other.pass(kMillisecond / 2);
    EXPECT_EQ(other.gsis[20].rises, 1U);
    EXPECT_TRUE(refuses_truncation(other.hpet, stream));
}

}  // namespace
}  // namespace strata::devices
