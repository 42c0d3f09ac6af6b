// IoApic: registers, edges and levels, message encoding, end of interrupt, routes, state.
#include "devices/irqchip/io_apic.h"

#include <gtest/gtest.h>

#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

constexpr std::uint32_t kMasked = 1U << 16;
constexpr std::uint32_t kLevel = 1U << 15;
constexpr std::uint32_t kRemoteIrr = 1U << 14;

struct Wired {
    void select(std::uint8_t index) { poke(chip, 0x00, index, 4); }
    std::uint32_t get(std::uint8_t index) {
        select(index);
        return static_cast<std::uint32_t>(peek(chip, 0x10, 4));
    }
    void set(std::uint8_t index, std::uint32_t value) {
        select(index);
        poke(chip, 0x10, value, 4);
    }
    /// Entry of `pin` with destination `id`.
    void route(unsigned pin, std::uint32_t low, std::uint8_t id = 0) {
        set(static_cast<std::uint8_t>(0x11 + 2 * pin), static_cast<std::uint32_t>(id) << 24);
        set(static_cast<std::uint8_t>(0x10 + 2 * pin), low);
    }
    FakeMsiSink sink;
    std::vector<bus::IrqRoute> routes;
    unsigned told = 0;
    IoApic chip{sink, [this](const std::vector<bus::IrqRoute>& now) {
                    routes = now;
                    ++told;
                }};
};

class IoApicTest : public ::testing::Test, protected Wired {};

TEST_F(IoApicTest, IdentifiesItself) {
    EXPECT_EQ(get(1), 0x00170020U);
    set(0, 0xff000000);
    EXPECT_EQ(get(0), 0x0f000000U);
    EXPECT_EQ(get(2), 0x0f000000U);
    EXPECT_EQ(get(0x10), kMasked);
    EXPECT_EQ(get(0x40), ~0U);
}

TEST_F(IoApicTest, EdgeSendsOneMessageARise) {
    route(4, 0x31, 3);
    chip.line(4).set(true);
    chip.line(4).set(true);
    ASSERT_EQ(sink.messages.size(), 1U);
    EXPECT_EQ(sink.messages[0], (bus::MsiMessage{0xfee03000, 0x31}));
    chip.line(4).pulse();
    chip.line(4).pulse();
    EXPECT_EQ(sink.messages.size(), 2U);
}

TEST_F(IoApicTest, EdgeAtMaskedPinIsLost) {
    route(4, 0x31 | kMasked);
    chip.line(4).set(true);
    route(4, 0x31);
    EXPECT_TRUE(sink.messages.empty());
}

TEST_F(IoApicTest, LevelIsSentAgainAtEoiWhileAsserted) {
    route(10, 0x55 | kLevel);
    chip.line(10).set(true);
    ASSERT_EQ(sink.messages.size(), 1U);
    EXPECT_EQ(sink.messages[0].data, 0xc055U);
    EXPECT_EQ(get(0x10 + 20), 0x55 | kLevel | kRemoteIrr);
    chip.end_of_interrupt(0x55);
    EXPECT_EQ(sink.messages.size(), 2U);
    chip.line(10).set(false);
    chip.end_of_interrupt(0x55);
    EXPECT_EQ(sink.messages.size(), 2U);
    EXPECT_EQ(get(0x10 + 20), 0x55 | kLevel);
}

TEST_F(IoApicTest, LevelIsNotSentTwiceBeforeEoi) {
    route(10, 0x55 | kLevel);
    chip.line(10).set(true);
    chip.line(10).set(false);
    chip.line(10).set(true);
    EXPECT_EQ(sink.messages.size(), 1U);
    chip.end_of_interrupt(0x54);
    EXPECT_EQ(sink.messages.size(), 1U);
    chip.end_of_interrupt(0x55);
    EXPECT_EQ(sink.messages.size(), 2U);
}

TEST_F(IoApicTest, AssertedLevelIsSentWhenUnmasked) {
    route(10, 0x55 | kLevel | kMasked);
    chip.line(10).set(true);
    EXPECT_TRUE(sink.messages.empty());
    route(10, 0x55 | kLevel);
    EXPECT_EQ(sink.messages.size(), 1U);
}

TEST_F(IoApicTest, EoiRegisterEndsTheVector) {
    route(10, 0x55 | kLevel);
    chip.line(10).set(true);
    chip.line(10).set(false);
    poke(chip, 0x40, 0x55, 4);
    EXPECT_EQ(get(0x10 + 20) & kRemoteIrr, 0U);
}

TEST_F(IoApicTest, SwitchToEdgeClearsRemoteIrr) {
    route(10, 0x55 | kLevel);
    chip.line(10).set(true);
    set(0x10 + 20, 0x55 | kMasked);
    set(0x10 + 20, 0x55 | kMasked | kLevel);
    EXPECT_EQ(get(0x10 + 20), 0x55 | kMasked | kLevel);
}

TEST_F(IoApicTest, RemoteIrrCannotBeWritten) {
    route(3, 0x30 | kLevel | kRemoteIrr | (1U << 12));
    EXPECT_EQ(get(0x16), 0x30 | kLevel);
}

TEST_F(IoApicTest, DeliveryModesAndLogicalDestination) {
    route(1, 0x40 | (1U << 8) | (1U << 11), 0x81);  // lowest priority, logical
    route(2, 0x41 | (4U << 8) | kLevel);            // NMI: an edge whatever it says
    route(3, 7U << 8);                              // ExtINT
    chip.line(1).set(true);
    chip.line(2).set(true);
    chip.line(3).set(true);
    ASSERT_EQ(sink.messages.size(), 3U);
    EXPECT_EQ(sink.messages[0], (bus::MsiMessage{0xfee81004, 0x140}));
    EXPECT_EQ(sink.messages[1], (bus::MsiMessage{0xfee00000, 0x441}));
    EXPECT_EQ(sink.messages[2], (bus::MsiMessage{0xfee00000, 0x700}));
}

TEST_F(IoApicTest, PolarityIsKeptButChangesNothing) {
    route(5, 0x35 | (1U << 13));
    chip.line(5).set(true);
    EXPECT_EQ(sink.messages.size(), 1U);
    EXPECT_EQ(get(0x1a), 0x35U | (1U << 13));
}

TEST_F(IoApicTest, ListenerSeesChangedRoutesOnly) {
    route(6, 0x36 | kLevel, 2);
    ASSERT_EQ(routes.size(), 24U);
    EXPECT_EQ(routes[6].message, (bus::MsiMessage{0xfee02000, 0xc036}));
    EXPECT_TRUE(routes[6].level);
    EXPECT_FALSE(routes[6].masked);
    const unsigned before = told;
    route(6, 0x36 | kLevel, 2);
    EXPECT_EQ(told, before);
}

TEST_F(IoApicTest, SavedStateContinuesInAFreshOne) {
    Wired other;
    route(10, 0x55 | kLevel, 1);
    chip.line(10).set(true);
    const auto stream = transplant(chip, other.chip);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.chip.resume().ok());
    EXPECT_FALSE(other.routes[10].masked);
    other.chip.line(10).set(true);  // it was up before
    EXPECT_TRUE(other.sink.messages.empty());
    other.chip.end_of_interrupt(0x55);
    EXPECT_EQ(other.sink.messages.size(), 1U);
    EXPECT_TRUE(refuses_truncation(other.chip, stream));
}

}  // namespace
}  // namespace strata::devices
