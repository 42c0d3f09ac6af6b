// PmBlock and ResetRegister: power button, sleep, events, carry, reset, state.
#include <gtest/gtest.h>

#include "devices/acpi/pm_block.h"
#include "devices/acpi/reset_register.h"
#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

struct Wired {
    FakeTime time;
    FakeLine sci;
    PmTimer timer{time.clock};
    unsigned offs = 0;
    PmBlock pm{*time.loop, timer, time.clock, sci, [this] { ++offs; }};
};

class PmBlockTest : public ::testing::Test, protected Wired {};

TEST_F(PmBlockTest, PowerButtonInterruptsUntilCleared) {
    poke(pm.event_block(), 2, 0x0100, 2);
    EXPECT_TRUE(pm.press_power_button());
    EXPECT_TRUE(sci.level);
    EXPECT_EQ(peek(pm.event_block(), 0, 2), 0x0100U);
    poke(pm.event_block(), 0, 0x0100, 2);
    EXPECT_FALSE(sci.level);
}

TEST_F(PmBlockTest, DisabledEventOnlyShowsInStatus) {
    EXPECT_FALSE(pm.press_power_button());
    EXPECT_FALSE(sci.level);
    poke(pm.event_block(), 2, 0x0100, 2);
    EXPECT_TRUE(sci.level);
}

TEST_F(PmBlockTest, SleepToS5PowersOff) {
    poke(pm.control_block(), 0, 5U << 10, 2);
    EXPECT_EQ(offs, 0U);
    poke(pm.control_block(), 0, 5U << 10 | 1U << 13, 2);
    EXPECT_EQ(offs, 1U);
    EXPECT_EQ(peek(pm.control_block(), 0, 2), (5U << 10) | 1);
}

TEST_F(PmBlockTest, OtherSleepStatesDoNothing) {
    poke(pm.control_block(), 0, 3U << 10 | 1U << 13, 2);
    EXPECT_EQ(offs, 0U);
}

TEST_F(PmBlockTest, AcpiModeCannotBeLeft) {
    poke(pm.control_block(), 0, 0, 2);
    EXPECT_EQ(peek(pm.control_block(), 0, 2), 1U);
}

TEST_F(PmBlockTest, GeneralPurposeEvent) {
    poke(pm.gpe0_block(), 8 + 1, 0x02);
    pm.raise_gpe(9);
    EXPECT_TRUE(sci.level);
    EXPECT_EQ(peek(pm.gpe0_block(), 1), 0x02U);
    poke(pm.gpe0_block(), 1, 0x02);
    EXPECT_FALSE(sci.level);
}

TEST_F(PmBlockTest, TimerCarryInterrupts) {
    poke(pm.event_block(), 2, 0x0001, 2);
    time.at(timer.next_carry());
    pm.advance();
    EXPECT_TRUE(sci.level);
    poke(pm.event_block(), 0, 0x0001, 2);
    EXPECT_FALSE(sci.level);
}

TEST_F(PmBlockTest, SavedStateContinuesInAFreshOne) {
    Wired other;
    poke(pm.event_block(), 2, 0x0100, 2);
    poke(pm.gpe0_block(), 8, 0x10);
    (void)pm.press_power_button();  // enabled above
    ASSERT_TRUE(other.pm.pause().ok());
    const auto stream = transplant(pm, other.pm);
    ASSERT_FALSE(stream.empty());
    EXPECT_FALSE(other.sci.level);
    ASSERT_TRUE(other.pm.resume().ok());
    EXPECT_TRUE(other.sci.level);
    EXPECT_TRUE(refuses_truncation(other.pm, stream));
}

/// Remembers the last access.
class ConfigPorts final : public bus::BusDevice {
  public:
    [[nodiscard]] std::string_view label() const override { return "config"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override {
        from_integer(0x1000 + offset, data);
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        last = offset * 16 + data.size();
    }
    std::uint64_t last = 0;
};

TEST(ResetRegisterTest, ResetsWhenTheCpuBitRises) {
    unsigned resets = 0;
    ResetRegister reset([&] { ++resets; });
    poke(reset, 0, 0x02);
    EXPECT_EQ(resets, 0U);
    EXPECT_EQ(peek(reset, 0), 0x02U);
    poke(reset, 0, ResetRegister::kResetValue);
    EXPECT_EQ(resets, 1U);
    poke(reset, 0, ResetRegister::kResetValue);
    EXPECT_EQ(resets, 2U);
}

TEST(ResetRegisterTest, OverlayPassesOtherAccessesOn) {
    unsigned resets = 0;
    ResetRegister reset([&] { ++resets; });
    ConfigPorts config;
    bus::BusDevice& ports = reset.overlay(config);
    poke(ports, 0, 0x80000600, 4);
    EXPECT_EQ(config.last, 0U * 16 + 4);
    EXPECT_EQ(resets, 0U);
    poke(ports, 1, 0x06);
    EXPECT_EQ(resets, 1U);
    EXPECT_EQ(peek(ports, 4, 4), 0x1004U);
}

TEST(ResetRegisterTest, SavedStateContinuesInAFreshOne) {
    ResetRegister reset([] {});
    ResetRegister other([] {});
    poke(reset, 0, 0x0a);
    const auto stream = transplant(reset, other);
    ASSERT_FALSE(stream.empty());
    EXPECT_EQ(peek(other, 0), 0x0aU);
    EXPECT_TRUE(refuses_truncation(other, stream));
}

}  // namespace
}  // namespace strata::devices
