// The small ports: panic events, debug exit, debug console, POST codes, kvm-unit-tests' device.
#include <string>

#include <gtest/gtest.h>

#include "devices/core/fakes.h"
#include "devices/misc/debug_ports.h"
#include "devices/misc/kvm_test_device.h"
#include "devices/misc/pvpanic.h"

namespace strata::devices {
namespace {

TEST(PvpanicTest, EventsAreAnnouncedAndReported) {
    std::vector<GuestCrash> seen;
    Pvpanic device([&](GuestCrash event) { seen.push_back(event); });
    EXPECT_EQ(peek(device, 0), 3U);
    poke(device, 0, 1);
    poke(device, 0, 2);
    poke(device, 0, 0xfc);
    EXPECT_EQ(seen, (std::vector{GuestCrash::Panicked, GuestCrash::CrashLoaded}));
}

TEST(DebugExitTest, ValueIsPassedInItsWidth) {
    std::vector<std::uint32_t> seen;
    DebugExit device([&](std::uint32_t value) { seen.push_back(value); });
    poke(device, 0, 0x31);
    poke(device, 0, 0x12345678, 4);
    poke(device, 2, 1);
    EXPECT_EQ(seen, (std::vector<std::uint32_t>{0x31, 0x12345678}));
}

TEST(DebugConsoleTest, BytesReachTheSink) {
    std::string text;
    DebugConsole device(
        [&](std::span<const std::byte> bytes) { text.push_back(static_cast<char>(bytes[0])); });
    EXPECT_EQ(peek(device, 0), 0xe9U);
    poke(device, 0, 'o');
    poke(device, 0, 'k', 2);
    EXPECT_EQ(text, "ok");
}

TEST(PostPortTest, KeepsTheLastCode) {
    PostPort device;
    poke(device, 0, 0x7f);
    EXPECT_EQ(device.code(), 0x7f);
    EXPECT_EQ(peek(device, 0), 0x7fU);
}

TEST(KvmTestDeviceTest, LinesFollowTheirPorts) {
    FakeLine line;
    std::uint32_t asked = 0;
    KvmTestDevice device([&](std::uint32_t gsi) -> bus::IrqLine& {
        asked = gsi;
        return line;
    });
    poke(device.line_ports(), 14, 1);
    EXPECT_EQ(asked, 14U);
    EXPECT_TRUE(line.level);
    poke(device.line_ports(), 24, 0);
    EXPECT_TRUE(line.level);
    poke(device.line_ports(), 14, 0);
    EXPECT_FALSE(line.level);
}

TEST(KvmTestDeviceTest, ScratchKeepsWhatIsWritten) {
    FakeLine line;
    KvmTestDevice device([&](std::uint32_t) -> bus::IrqLine& { return line; });
    poke(device.register_port(), 0, 0xdeadbeef, 4);
    EXPECT_EQ(peek(device.register_port(), 1, 2), 0xadbeU);
    poke(device.memory(), KvmTestDevice::kMemorySize - 2, ~std::uint64_t{0}, 8);
    EXPECT_EQ(peek(device.memory(), KvmTestDevice::kMemorySize - 2, 2), 0xffffU);
}

}  // namespace
}  // namespace strata::devices
