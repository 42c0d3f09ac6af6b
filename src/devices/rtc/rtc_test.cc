// Rtc: time of day in both encodings, setting it, the three interrupts, memory, state.
#include "devices/rtc/rtc.h"

#include <gtest/gtest.h>

#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kStart = 951'827'696 * kSecond;  // Tuesday 2000-02-29 12:34:56 UTC

struct Wired {
    Wired() { EXPECT_TRUE(rtc.attach(ports).ok()); }
    void out(std::uint16_t port, std::uint8_t value) {
        const std::byte byte{value};
        ports.write(port, std::span(&byte, 1));
    }
    void set(std::uint8_t index, std::uint8_t value) {
        out(0x70, index);
        out(0x71, value);
    }
    unsigned get(std::uint8_t index) {
        out(0x70, index);
        std::byte byte{};
        ports.read(0x71, std::span(&byte, 1));
        return static_cast<unsigned>(byte);
    }
    void pass(std::uint64_t nanoseconds) {
        time.pass(nanoseconds);
        rtc.advance();
    }
    FakeTime time;
    FakeLine line;
    bus::Bus ports;
    Rtc rtc{*time.loop, time.clock, line, [] { return kStart; }};
};

class RtcTest : public ::testing::Test, protected Wired {
  protected:
    static constexpr std::uint8_t kA = 10, kB = 11, kC = 12, kD = 13;
};

TEST_F(RtcTest, TimeIsUtcInBcd) {
    EXPECT_EQ(get(0), 0x56U);
    EXPECT_EQ(get(2), 0x34U);
    EXPECT_EQ(get(4), 0x12U);
    EXPECT_EQ(get(6), 3U);
    EXPECT_EQ(get(7), 0x29U);
    EXPECT_EQ(get(8), 0x02U);
    EXPECT_EQ(get(9), 0x00U);
    EXPECT_EQ(get(0x32), 0x20U);
    EXPECT_EQ(get(kD), 0x80U);
}

TEST_F(RtcTest, TimeGoesOnPastMidnightOfALeapDay) {
    pass((11 * 3600 + 25 * 60 + 5) * kSecond);
    EXPECT_EQ(get(0), 0x01U);
    EXPECT_EQ(get(4), 0x00U);
    EXPECT_EQ(get(7), 0x01U);
    EXPECT_EQ(get(8), 0x03U);
}

TEST_F(RtcTest, BinaryAndTwelveHourModes) {
    set(kB, 0x04);
    EXPECT_EQ(get(0), 56U);
    EXPECT_EQ(get(4), 0x80U | 12);
    pass(3600 * kSecond);
    EXPECT_EQ(get(4), 0x80U | 1);
}

TEST_F(RtcTest, GuestSetsTheTimeAsLinuxDoes) {
    set(kB, 0x82);
    set(kA, 0x76);
    set(0, 0x00);
    set(2, 0x00);
    set(4, 0x08);
    set(7, 0x15);
    set(8, 0x06);
    set(9, 0x31);
    pass(7 * kSecond);
    EXPECT_EQ(get(0), 0x00U);  // held
    set(kB, 0x02);
    set(kA, 0x26);
    time.pass(kSecond / 2 - 1);
    EXPECT_EQ(get(0), 0x00U);
    time.pass(1);
    EXPECT_EQ(get(0), 0x01U);
    EXPECT_EQ(get(9), 0x31U);
    EXPECT_EQ(get(0x32), 0x20U);
}

TEST_F(RtcTest, NonsenseTimeIsBroughtIntoRange) {
    set(kB, 0x82);
    set(4, 0xff);
    set(7, 0x00);
    set(8, 0xff);
    set(0x32, 0xff);
    set(kB, 0x02);
    EXPECT_EQ(get(4), 0x23U);
    EXPECT_EQ(get(7), 0x01U);
    EXPECT_EQ(get(8), 0x12U);
    EXPECT_EQ(get(0x32), 0x25U);
}

TEST_F(RtcTest, UpdateInProgressBeforeTheSecondEnds) {
    time.pass(kSecond - 2'228'001);
    EXPECT_EQ(get(kA) & 0x80, 0U);
    time.pass(1);
    EXPECT_EQ(get(kA) & 0x80, 0x80U);
    time.pass(2'228'000);
    EXPECT_EQ(get(kA) & 0x80, 0U);
}

TEST_F(RtcTest, UpdateEndedInterruptEverySecond) {
    set(kB, 0x12);
    pass(kSecond - 1);
    EXPECT_FALSE(line.level);
    pass(1);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(get(kC) & 0xb0, 0x90U);
    EXPECT_FALSE(line.level);
    EXPECT_EQ(get(kC), 0x00U);
    pass(kSecond);
    EXPECT_TRUE(line.level);
}

TEST_F(RtcTest, SetClearsUpdateInterruptEnable) {
    set(kB, 0x92);
    EXPECT_EQ(get(kB), 0x82U);
}

TEST_F(RtcTest, AlarmAtItsTime) {
    set(1, 0x00);
    set(3, 0x40);
    set(5, 0x12);
    set(kB, 0x22);
    pass(303 * kSecond);
    EXPECT_FALSE(line.level);
    pass(kSecond);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(get(kC) & 0xb0, 0xb0U);
}

TEST_F(RtcTest, AlarmWithAnyHourAndMinuteComesEveryMinute) {
    set(1, 0x10);
    set(3, 0xc0);
    set(5, 0xff);
    set(kB, 0x22);
    pass(14 * kSecond);
    EXPECT_EQ(get(kC) & 0xb0, 0xb0U);
    pass(60 * kSecond);
    EXPECT_EQ(get(kC) & 0xb0, 0xb0U);
}

TEST_F(RtcTest, AlarmThatNeverMatchesIsHarmless) {
    set(1, 0x99);
    set(3, 0x99);
    set(5, 0x99);
    set(kB, 0x22);
    pass(100'000 * kSecond);
    EXPECT_FALSE(line.level);
}

TEST_F(RtcTest, PeriodicInterruptAt1024Hz) {
    set(kB, 0x42);
    pass(976'562);
    EXPECT_FALSE(line.level);
    pass(1);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(get(kC) & 0xc0, 0xc0U);
    EXPECT_FALSE(line.level);
}

TEST_F(RtcTest, MissedPeriodicInterruptsFollowOneByOne) {
    set(kB, 0x42);
    pass(3 * 976'563);
    (void)get(kC);
    pass(100'000);
    EXPECT_TRUE(line.level);
    (void)get(kC);
    pass(100'000);
    EXPECT_TRUE(line.level);
    (void)get(kC);
    pass(100'000);
    EXPECT_FALSE(line.level);
}

TEST_F(RtcTest, MemoryKeepsBytes) {
    rtc.set_nvram(0x34, 0xab);
    EXPECT_EQ(get(0x34), 0xabU);
    set(0x7f, 0x5a);
    EXPECT_EQ(get(0xff), 0x5aU);
}

TEST_F(RtcTest, SavedStateContinuesInAFreshOne) {
    Wired other;
    set(kB, 0x12);
    set(0x40, 0x77);
    set(0, 0x30);
    time.pass(kSecond / 4);
    ASSERT_TRUE(rtc.pause().ok());
    ASSERT_TRUE(other.rtc.pause().ok());
    other.time.at(time.clock.now());
    const auto stream = transplant(rtc, other.rtc);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.rtc.resume().ok());
    EXPECT_EQ(other.get(0), 0x30U);
    EXPECT_EQ(other.get(0x40), 0x77U);
    other.pass(kSecond * 3 / 4);
    EXPECT_TRUE(other.line.level);
    EXPECT_TRUE(refuses_truncation(other.rtc, stream));
}

}  // namespace
}  // namespace strata::devices
