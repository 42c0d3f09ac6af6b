// Pic: initialisation, priorities, EOI kinds, cascade, poll, ELCR, spurious vectors, state.
#include "devices/irqchip/pic.h"

#include <gtest/gtest.h>

#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

/// A Pic behind a port bus, initialised as Linux does: vectors 20h and 28h.
struct Wired {
    Wired() : pic([this](bool level) { intr = level; }) { EXPECT_TRUE(pic.attach(ports).ok()); }
    void out(std::uint16_t port, std::uint8_t value) {
        const std::byte byte{value};
        ports.write(port, std::span(&byte, 1));
    }
    std::uint8_t in(std::uint16_t port) {
        std::byte byte{0xff};
        ports.read(port, std::span(&byte, 1));
        return static_cast<std::uint8_t>(byte);
    }
    void initialise(std::uint8_t master_icw4 = 0x01, std::uint8_t slave_icw4 = 0x01) {
        out(0x20, 0x11);
        out(0x21, 0x20);
        out(0x21, 0x04);
        out(0x21, master_icw4);
        out(0xa0, 0x11);
        out(0xa1, 0x28);
        out(0xa1, 0x02);
        out(0xa1, slave_icw4);
    }
    bus::Bus ports;
    bool intr = false;
    Pic pic;
};

class PicTest : public ::testing::Test {
  protected:
    PicTest() { wired.initialise(); }
    Wired wired;
    Pic& pic = wired.pic;
};

TEST(PicPowerOnTest, NothingGetsThroughBeforeInitialisation) {
    Wired wired;
    wired.pic.line(0).pulse();
    wired.pic.line(9).set(true);
    EXPECT_FALSE(wired.intr);
    wired.initialise();
    wired.pic.line(0).pulse();
    EXPECT_TRUE(wired.intr);
}

TEST_F(PicTest, EdgeIsDeliveredOnce) {
    pic.line(4).set(true);
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x24);
    EXPECT_FALSE(wired.intr);
    wired.out(0x20, 0x20);
    EXPECT_FALSE(wired.intr);
    pic.line(4).set(false);
    pic.line(4).set(true);
    EXPECT_TRUE(wired.intr);
}

TEST_F(PicTest, PulseStaysLatched) {
    pic.line(0).pulse();
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x20);
}

TEST_F(PicTest, MaskedInputWaits) {
    wired.out(0x21, 0x10);
    pic.line(4).set(true);
    EXPECT_FALSE(wired.intr);
    EXPECT_EQ(wired.in(0x20), 0x10);  // IRR
    wired.out(0x21, 0x00);
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(wired.in(0x21), 0x00);
}

TEST_F(PicTest, HigherPriorityInterruptsLower) {
    pic.line(4).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x24);
    pic.line(5).pulse();
    EXPECT_FALSE(wired.intr);
    pic.line(1).pulse();
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x21);
    wired.out(0x20, 0x0b);
    EXPECT_EQ(wired.in(0x20), 0x12);  // ISR: 1 and 4
    wired.out(0x20, 0x20);            // ends 1
    EXPECT_EQ(wired.in(0x20), 0x10);
    wired.out(0x20, 0x64);  // ends 4
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x25);
}

TEST_F(PicTest, SlaveInterruptsThroughTheCascade) {
    pic.line(12).pulse();
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x2c);
    wired.out(0x20, 0x0b);
    EXPECT_EQ(wired.in(0x20), 0x04);
    pic.line(8).pulse();
    EXPECT_FALSE(wired.intr);  // not fully nested: the cascade is in service
    wired.out(0xa0, 0x20);
    wired.out(0x20, 0x20);
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x28);
}

TEST_F(PicTest, SpecialFullyNestedLetsTheSlavesHigherInputThrough) {
    wired.initialise(0x11, 0x01);
    pic.line(12).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x2c);
    pic.line(8).pulse();
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x28);
}

TEST_F(PicTest, NothingPendingIsSpurious) {
    EXPECT_EQ(pic.acknowledge(), 0x27);
    wired.out(0x20, 0x0b);
    EXPECT_EQ(wired.in(0x20), 0);
}

TEST_F(PicTest, AutoEoiLeavesNothingInService) {
    wired.initialise(0x03, 0x01);
    pic.line(3).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x23);
    pic.line(5).pulse();
    EXPECT_TRUE(wired.intr);
}

TEST_F(PicTest, RotatingEoiMakesTheServedInputLowest) {
    pic.line(0).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x20);
    wired.out(0x20, 0xa0);
    pic.line(0).pulse();
    pic.line(7).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x27);
}

TEST_F(PicTest, SetPriorityOrdersInputs) {
    wired.out(0x20, 0xc3);  // input 3 lowest, 4 highest
    pic.line(0).pulse();
    pic.line(4).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x24);
}

TEST_F(PicTest, SpecialMaskModeLetsLowerInputsThrough) {
    pic.line(1).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x21);
    wired.out(0x21, 0x02);
    wired.out(0x20, 0x68);
    pic.line(6).pulse();
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x26);
}

TEST_F(PicTest, PollReadsAndTakesTheRequest) {
    pic.line(5).pulse();
    wired.out(0x20, 0x0c);
    EXPECT_EQ(wired.in(0x20), 0x85);
    EXPECT_FALSE(wired.intr);
    wired.out(0x20, 0x0c);
    EXPECT_EQ(wired.in(0x20), 0x00);
}

TEST_F(PicTest, LevelInputAsksUntilReleased) {
    wired.out(0x4d1, 0x02);  // IRQ 9
    EXPECT_EQ(wired.in(0x4d1), 0x02);
    pic.line(9).set(true);
    EXPECT_EQ(pic.acknowledge(), 0x29);
    wired.out(0xa0, 0x20);
    wired.out(0x20, 0x20);
    EXPECT_TRUE(wired.intr);
    pic.line(9).set(false);
    EXPECT_FALSE(wired.intr);
}

TEST_F(PicTest, ElcrKeepsIsaInputsOnEdges) {
    wired.out(0x4d0, 0xff);
    wired.out(0x4d1, 0xff);
    EXPECT_EQ(wired.in(0x4d0), 0xf8);
    EXPECT_EQ(wired.in(0x4d1), 0xde);
}

TEST_F(PicTest, TwoSlaveInputsAreServedInTurn) {
    pic.line(10).pulse();
    pic.line(11).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x2a);
    wired.out(0xa0, 0x20);
    wired.out(0x20, 0x20);
    EXPECT_TRUE(wired.intr);
    EXPECT_EQ(pic.acknowledge(), 0x2b);
}

TEST_F(PicTest, SavedStateContinuesInAFreshOne) {
    Wired other;
    pic.line(1).set(true);
    pic.line(12).set(true);
    EXPECT_EQ(pic.acknowledge(), 0x21);
    wired.out(0x20, 0x20);
    const auto stream = transplant(pic, other.pic);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.pic.resume().ok());
    EXPECT_TRUE(other.intr);
    other.pic.line(1).set(true);  // no edge: it was up before
    EXPECT_EQ(other.pic.acknowledge(), 0x2c);
    EXPECT_FALSE(other.intr);
    EXPECT_TRUE(refuses_truncation(other.pic, stream));
}

}  // namespace
}  // namespace strata::devices
