// Pit: modes, latches, gate and speaker port, ticks and lost ticks, state.
#include "devices/timer/pit.h"

#include <gtest/gtest.h>

#include "devices/core/fakes.h"
#include "devices/core/ticks.h"
#include "devices/timer/pm_timer.h"

namespace strata::devices {
namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;

struct Wired {
    Wired() { EXPECT_TRUE(pit.attach(ports).ok()); }
    void out(std::uint16_t port, std::uint8_t value) {
        const std::byte byte{value};
        ports.write(port, std::span(&byte, 1));
    }
    std::uint8_t in(std::uint16_t port) {
        std::byte byte{0xff};
        ports.read(port, std::span(&byte, 1));
        return static_cast<std::uint8_t>(byte);
    }
    unsigned count(std::uint16_t port) {
        const unsigned low = in(port);
        return low | in(port)*256U;
    }
    void program(unsigned counter, std::uint8_t control, std::uint16_t count) {
        out(0x43, static_cast<std::uint8_t>(counter << 6 | 0x30 | control));
        out(static_cast<std::uint16_t>(0x40 + counter), static_cast<std::uint8_t>(count));
        out(static_cast<std::uint16_t>(0x40 + counter), static_cast<std::uint8_t>(count >> 8));
    }
    /// Lets `ticks` of the 8254 pass.
    void pass(std::uint64_t ticks) {
        time.at(from_ticks(to_ticks(time.clock.now(), Pit::kFrequency) + ticks, Pit::kFrequency));
        pit.advance();
    }
    FakeTime time;
    FakeLine line;
    bus::Bus ports;
    Pit pit{*time.loop, time.clock, line};
};

class PitTest : public ::testing::Test, protected Wired {};

TEST_F(PitTest, TerminalCountRaisesTheLineOnce) {
    program(0, 0x00, 100);
    EXPECT_FALSE(line.level);
    pass(99);
    EXPECT_FALSE(line.level);
    pass(1);
    EXPECT_TRUE(line.level);
    pass(100'000);
    EXPECT_EQ(line.rises, 1U);
}

TEST_F(PitTest, RateGeneratorTicksEveryPeriod) {
    program(0, 0x04, 11932);
    const unsigned before = line.rises;
    for (int period = 0; period < 5; ++period) {
        pass(11932);
    }
    EXPECT_EQ(line.rises - before, 5U);
    EXPECT_EQ(pit.ticks(), 5U);
}

TEST_F(PitTest, MissedTicksAreGivenLaterOneByOne) {
    program(0, 0x04, 11932);  // 10 ms
    pass(5 * 11932);
    EXPECT_EQ(pit.ticks(), 1U);
    pit.advance();
    EXPECT_EQ(pit.ticks(), 1U);
    time.pass(26 * kMillisecond / 10);
    pit.advance();
    EXPECT_EQ(pit.ticks(), 2U);
    time.pass(26 * kMillisecond / 10);
    pit.advance();
    EXPECT_EQ(pit.ticks(), 3U);
}

TEST_F(PitTest, LongHoldUpOwesABoundedNumberOfTicks) {
    program(0, 0x04, 1193);
    pass(Pit::kFrequency * 3600);
    program(1, 0x04, 1193);
    std::uint64_t rounds = 0;
    while (rounds < 100'000 && pit.ticks() < 1000) {
        time.pass(10'000);
        pit.advance();
        ++rounds;
    }
    EXPECT_GT(rounds, 70'000U);  // 750 ordinary ticks took most of their second
}

TEST_F(PitTest, ShortPeriodDoesNotStorm) {
    program(0, 0x04, 2);
    for (int step = 0; step < 1000; ++step) {
        time.pass(1000);
        pit.advance();
    }
    EXPECT_LE(pit.ticks(), 21U);
}

TEST_F(PitTest, SquareWaveHalvesItsPeriod) {
    program(2, 0x06, 1000);
    out(0x61, 0x01);
    EXPECT_EQ(in(0x61) & 0x20, 0x20);
    pass(500);
    EXPECT_EQ(in(0x61) & 0x20, 0x00);
    pass(500);
    EXPECT_EQ(in(0x61) & 0x20, 0x20);
}

TEST_F(PitTest, CalibrationLoopSeesCounter2End) {
    out(0x61, 0x01);
    program(2, 0x00, 0x1234);
    EXPECT_EQ(in(0x61) & 0x20, 0x00);
    pass(0x1233);
    EXPECT_EQ(in(0x61) & 0x20, 0x00);
    pass(1);
    EXPECT_EQ(in(0x61) & 0x20, 0x20);
}

TEST_F(PitTest, ClosedGateHoldsTheCount) {
    out(0x61, 0x01);
    program(2, 0x00, 1000);
    pass(400);
    out(0x61, 0x00);
    pass(5000);
    EXPECT_EQ(count(0x42), 600U);
    out(0x61, 0x01);
    pass(600);
    EXPECT_EQ(in(0x61) & 0x20, 0x20);
}

TEST_F(PitTest, OneShotStartsWithTheGate) {
    program(2, 0x02, 1000);
    EXPECT_EQ(in(0x61) & 0x20, 0x20);
    out(0x61, 0x01);
    EXPECT_EQ(in(0x61) & 0x20, 0x00);
    pass(1000);
    EXPECT_EQ(in(0x61) & 0x20, 0x20);
}

TEST_F(PitTest, LatchKeepsTheCountUntilRead) {
    program(0, 0x04, 10'000);
    pass(1000);
    out(0x43, 0x00);
    pass(1000);
    EXPECT_EQ(count(0x40), 9000U);
    EXPECT_EQ(count(0x40), 8000U);
}

TEST_F(PitTest, ReadBackGivesStatusThenCount) {
    program(0, 0x04, 10'000);
    pass(1);
    out(0x43, 0xc2);
    EXPECT_EQ(in(0x40), 0xb4);  // out high, loaded, both bytes, mode 2
    EXPECT_EQ(count(0x40), 9999U);
}

TEST_F(PitTest, BcdCountsInDecimal) {
    program(0, 0x05, 0x1000);
    pass(1);
    EXPECT_EQ(count(0x40), 0x0999U);
}

TEST_F(PitTest, SoftwareStrobeTicksOnce) {
    program(0, 0x08, 500);
    const unsigned before = line.rises;
    pass(500);
    pass(500);
    EXPECT_EQ(line.rises - before, 1U);
}

TEST_F(PitTest, PausedGivesNoTicks) {
    program(0, 0x04, 11932);
    ASSERT_TRUE(pit.pause().ok());
    pass(11932);
    EXPECT_EQ(pit.ticks(), 0U);
    ASSERT_TRUE(pit.resume().ok());
    pit.advance();
    EXPECT_EQ(pit.ticks(), 1U);
}

TEST_F(PitTest, AlarmOfTheLoopTicks) {
    program(0, 0x04, 1193);
    time.clock.resume();
    ASSERT_TRUE(pit.pause().ok());
    ASSERT_TRUE(pit.resume().ok());
    time.loop->run_once(std::chrono::milliseconds(200));
    time.loop->run_once(std::chrono::milliseconds(200));
    EXPECT_GE(pit.ticks(), 1U);
}

TEST_F(PitTest, SavedStateContinuesInAFreshOne) {
    Wired other;
    program(0, 0x04, 10'000);
    out(0x61, 0x01);
    program(2, 0x00, 1000);
    pass(400);
    out(0x43, 0x00);
    ASSERT_TRUE(pit.pause().ok());
    ASSERT_TRUE(other.pit.pause().ok());
    other.time.at(time.clock.now());
    const auto stream = transplant(pit, other.pit);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.pit.resume().ok());
    EXPECT_EQ(other.count(0x40), 9600U);
    EXPECT_EQ(other.count(0x42), 600U);
    other.pass(9600);
    EXPECT_EQ(other.pit.ticks(), 1U);
    EXPECT_TRUE(refuses_truncation(other.pit, stream));
}

TEST(PmTimerTest, CountsAtItsFrequency) {
    FakeTime time;
    PmTimer timer(time.clock);
    time.at(1'000'000'000);
    EXPECT_EQ(peek(timer, 0, 4), PmTimer::kFrequency);
    EXPECT_EQ(peek(timer, 1, 1), PmTimer::kFrequency >> 8 & 0xff);
    poke(timer, 0, 0, 4);
    EXPECT_EQ(timer.value(), PmTimer::kFrequency);
}

TEST(PmTimerTest, CarryIsAChangeOfTheTopBit) {
    FakeTime time;
    PmTimer timer(time.clock);
    const std::uint64_t carry = timer.next_carry();
    time.at(carry - 1);
    EXPECT_EQ(timer.carries(), 0U);
    time.at(carry);
    EXPECT_EQ(timer.carries(), 1U);
    EXPECT_EQ(timer.value(), 0x80000000U);
}

}  // namespace
}  // namespace strata::devices
