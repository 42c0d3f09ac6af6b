// DirectWorth: windows of invented times.
#include "engine/soft/direct/direct_worth.h"

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

TEST(DirectWorthTest, WindowEndsByCostOrByRuns) {
    StubWindow window{.cost = kMs - 1, .runs = 99};
    EXPECT_FALSE(window.full());
    window.runs = 100;
    EXPECT_TRUE(window.full());
    window = {.cost = kMs};
    EXPECT_TRUE(window.full());
}

TEST(DirectWorthTest, NativeCodeThatSavesMoreThanItCostsWins) {
    std::uint64_t lost = 10 * kMs;
    StubWindow window{.cost = kMs, .own = kMs, .runs = 10, .cpu = 5 * kMs};
    const Weighed weighed = weigh(window, 16 * kMs, lost);
    EXPECT_EQ(weighed.worth, Worth::Won);
    EXPECT_EQ(weighed.native, 11 * kMs - kMs - 50'000);
    EXPECT_LT(lost, 10 * kMs);
    // The next one begins where this one ended.
    EXPECT_EQ(window.cpu, 16 * kMs);
    EXPECT_EQ(window.cost + window.own + window.runs, 0U);
}

TEST(DirectWorthTest, EntriesAndMappingAreNotTheGuests) {
    std::uint64_t lost = 0;
    StubWindow window{.cost = kMs, .own = 2 * kMs, .runs = 100};
    const Weighed weighed = weigh(window, 2'500'000, lost);
    EXPECT_EQ(weighed.worth, Worth::Lost);
    EXPECT_EQ(weighed.native, 0U);
    EXPECT_EQ(lost, kMs + 500'000);
}

// Its time reads as nothing: less than before.
TEST(DirectWorthTest, ProcessThatIsGoneLoses) {
    std::uint64_t lost = 0;
    StubWindow window{.cost = kMs, .runs = 1, .cpu = 9 * kMs};
    EXPECT_EQ(weigh(window, 0, lost).worth, Worth::Lost);
    EXPECT_EQ(window.cpu, 0U);
}

TEST(DirectWorthTest, HotSensitivePagesAndFlipsAreHopelessUnlessTheyWin) {
    std::uint64_t lost = 0;
    StubWindow refused{.cost = kMs, .runs = 100, .refused = 26};
    EXPECT_EQ(weigh(refused, 0, lost).worth, Worth::Hopeless);
    StubWindow few{.cost = kMs, .runs = 100, .refused = 25};
    EXPECT_EQ(weigh(few, 0, lost).worth, Worth::Lost);
    StubWindow flips{.cost = kMs, .runs = 100, .flips = 26};
    EXPECT_EQ(weigh(flips, 0, lost).worth, Worth::Hopeless);
    StubWindow wins{.cost = kMs, .runs = 100, .flips = 100};
    EXPECT_EQ(weigh(wins, 100 * kMs, lost).worth, Worth::Won);
}

// Three windows, and the space has to wait, longer each time.
TEST(DirectWorthTest, SpaceThatLosesWaitsForLongerEachTime) {
    UserSpace space{};
    std::uint64_t expected = 5'000;
    for (int turn = 0; turn < 10; ++turn) {
        space.strikes = 0;
        EXPECT_FALSE(settle(space, Worth::Lost));
        EXPECT_FALSE(settle(space, Worth::Lost));
        EXPECT_TRUE(settle(space, Worth::Lost));
        EXPECT_EQ(space.backoff, expected);
        expected = expected * 2 < 400'000 ? expected * 2 : 400'000;
    }
}

TEST(DirectWorthTest, WindowThatWinsForgivesTheOnesBefore) {
    UserSpace space{};
    space.backoff = 40'000;
    space.strikes = 2;
    EXPECT_FALSE(settle(space, Worth::Won));
    EXPECT_EQ(space.backoff, 20'000U);
    EXPECT_FALSE(settle(space, Worth::Lost));
}

TEST(DirectWorthTest, HopelessOnesWaitAtOnce) {
    UserSpace space{};
    std::uint64_t expected = 20'000;
    for (int turn = 0; turn < 6; ++turn) {
        EXPECT_TRUE(settle(space, Worth::Hopeless));
        EXPECT_EQ(space.backoff, expected);
        expected = expected * 4 < 2'000'000 ? expected * 4 : 2'000'000;
    }
}

}  // namespace
}  // namespace strata::engine::soft
