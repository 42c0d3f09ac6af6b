// I8042: controller commands, keyboard, mouse, translation, reset, state.
#include "devices/input/i8042.h"

#include <gtest/gtest.h>

#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

struct Wired {
    Wired() { EXPECT_TRUE(chip.attach(ports).ok()); }
    void out(std::uint16_t port, std::uint8_t value) {
        const std::byte byte{value};
        ports.write(port, std::span(&byte, 1));
    }
    unsigned in(std::uint16_t port) {
        std::byte byte{};
        ports.read(port, std::span(&byte, 1));
        return static_cast<unsigned>(byte);
    }
    /// All bytes that wait.
    std::vector<unsigned> drain() {
        std::vector<unsigned> bytes;
        while ((in(0x64) & 1) != 0 && bytes.size() < 1000) {
            bytes.push_back(in(0x60));
        }
        return bytes;
    }
    void set_command_byte(std::uint8_t value) {
        out(0x64, 0x60);
        out(0x60, value);
    }
    void to_mouse(std::uint8_t value) {
        out(0x64, 0xd4);
        out(0x60, value);
    }
    FakeLine keyboard;
    FakeLine mouse;
    unsigned resets = 0;
    bus::Bus ports;
    I8042 chip{keyboard, mouse, [this] { ++resets; }};
};

using Bytes = std::vector<unsigned>;

class I8042Test : public ::testing::Test, protected Wired {};

TEST_F(I8042Test, SelfTestsPass) {
    out(0x64, 0xaa);
    out(0x64, 0xab);
    out(0x64, 0xa9);
    EXPECT_EQ(drain(), (Bytes{0x55, 0x00, 0x00}));
}

TEST_F(I8042Test, CommandByteIsKept) {
    set_command_byte(0x47);
    out(0x64, 0x20);
    EXPECT_EQ(drain(), (Bytes{0x47}));
    out(0x64, 0xad);
    out(0x64, 0xa7);
    out(0x64, 0x20);
    EXPECT_EQ(drain(), (Bytes{0x77}));
}

TEST_F(I8042Test, KeyboardAnswersResetAndIdentify) {
    out(0x60, 0xff);
    EXPECT_TRUE(keyboard.level);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0xaa}));
    EXPECT_FALSE(keyboard.level);
    EXPECT_EQ(keyboard.rises, 2U);
    out(0x60, 0xf2);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0xab, 0x41}));  // translated, as on a PC
    out(0x60, 0xed);
    out(0x60, 0x02);
    out(0x60, 0xee);
    out(0x60, 0x01);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0xfa, 0xee, 0xfe}));
}

TEST_F(I8042Test, KeysAreTranslated) {
    const std::array<std::uint8_t, 6> codes{0x1c, 0xf0, 0x1c,
                                            0xe0, 0xf0, 0x75};  // A down, A up, cursor up released
    chip.send_keys(codes);
    EXPECT_EQ(drain(), (Bytes{0x1e, 0x9e, 0xe0, 0xc8}));
}

TEST_F(I8042Test, KeysAreRawWithoutTranslation) {
    set_command_byte(0x01);
    const std::array<std::uint8_t, 2> codes{0xf0, 0x1c};
    chip.send_keys(codes);
    EXPECT_EQ(drain(), (Bytes{0xf0, 0x1c}));
}

TEST_F(I8042Test, DisabledKeyboardPortHoldsKeysBack) {
    out(0x64, 0xad);
    const std::array<std::uint8_t, 1> codes{0x1c};
    chip.send_keys(codes);
    EXPECT_EQ(in(0x64) & 1, 0U);
    out(0x64, 0xae);
    EXPECT_EQ(drain(), (Bytes{0x1e}));
}

TEST_F(I8042Test, AuxLoopComesFromTheMouse) {
    set_command_byte(0x43);
    out(0x64, 0xd3);
    out(0x60, 0x5a);
    EXPECT_EQ(in(0x64) & 0x21, 0x21U);
    EXPECT_TRUE(mouse.level);
    EXPECT_EQ(in(0x60), 0x5aU);
    EXPECT_FALSE(mouse.level);
}

TEST_F(I8042Test, MouseAnswersAndReports) {
    set_command_byte(0x43);
    to_mouse(0xff);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0xaa, 0x00}));
    to_mouse(0xf2);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0x00}));
    chip.move_mouse(1, 1, 0);
    EXPECT_EQ(drain(), Bytes{});
    to_mouse(0xf3);
    to_mouse(0x64);
    to_mouse(0xf4);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0xfa, 0xfa}));
    chip.move_mouse(2, -4, 1);
    EXPECT_EQ(drain(), (Bytes{0x29, 0x03, 0xfd}));
    to_mouse(0xe9);
    EXPECT_EQ(drain(), (Bytes{0xfa, 0x24, 0x02, 0x64}));
}

TEST_F(I8042Test, ResetLineAndPort92Reset) {
    out(0x64, 0xfe);
    EXPECT_EQ(resets, 1U);
    out(0x64, 0xf1);
    EXPECT_EQ(resets, 1U);
    out(0x64, 0xd1);
    out(0x60, 0x02);
    EXPECT_EQ(resets, 2U);
    out(0x92, 0x03);
    EXPECT_EQ(resets, 3U);
}

TEST_F(I8042Test, A20ReadsBack) {
    EXPECT_EQ(in(0x92), 0x02U);
    out(0x92, 0x00);
    EXPECT_EQ(in(0x92), 0x00U);
    out(0x64, 0xdf);
    EXPECT_EQ(in(0x92), 0x02U);
}

TEST_F(I8042Test, GuestThatNeverReadsIsBounded) {
    const std::array<std::uint8_t, 2> codes{0x1c, 0x32};
    for (int count = 0; count < 10'000; ++count) {
        out(0x60, 0xf2);
        out(0x64, 0xaa);
        chip.send_keys(codes);
    }
    EXPECT_LT(drain().size(), 400U);
}

TEST_F(I8042Test, SavedStateContinuesInAFreshOne) {
    Wired other;
    const std::array<std::uint8_t, 4> codes{0x1c, 0xf0, 0x1c, 0x32};
    chip.send_keys(codes);
    out(0x64, 0x60);
    ASSERT_TRUE(other.chip.pause().ok());
    const auto stream = transplant(chip, other.chip);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.chip.resume().ok());
    EXPECT_TRUE(other.keyboard.level);
    EXPECT_EQ(other.drain(), (Bytes{0x1e, 0x9e, 0x30}));
    other.out(0x60, 0x44);  // still the command byte's value
    other.out(0x64, 0x20);
    EXPECT_EQ(other.drain(), (Bytes{0x44}));
    EXPECT_TRUE(refuses_truncation(other.chip, stream));
}

}  // namespace
}  // namespace strata::devices
