// Bus: claims, dispatch and unclaimed addresses.
#include "bus/bus.h"

#include <array>

#include <gtest/gtest.h>

namespace strata::bus {
namespace {

class Probe final : public BusDevice {
  public:
    [[nodiscard]] std::string_view label() const override { return "probe"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override {
        data[0] = static_cast<std::byte>(offset);
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        last_offset = offset;
        last_size = data.size();
    }
    std::uint64_t last_offset = ~0ULL;
    std::size_t last_size = 0;
};

TEST(BusTest, DeviceSeesItsOwnOffset) {
    Bus bus;
    Probe probe;
    ASSERT_TRUE(bus.add(0x3f8, 8, probe).ok());
    std::array<std::byte, 1> data{};
    EXPECT_TRUE(bus.read(0x3fd, data));
    EXPECT_EQ(data[0], std::byte{5});
}

TEST(BusTest, UnclaimedReadsAreAllOnes) {
    const Bus bus;
    std::array<std::byte, 2> data{};
    EXPECT_FALSE(bus.read(0x80, data));
    EXPECT_EQ(data[1], std::byte{0xff});
}

TEST(BusTest, OverlapIsRefused) {
    Bus bus;
    Probe probe;
    ASSERT_TRUE(bus.add(0x100, 0x10, probe).ok());
    EXPECT_EQ(bus.add(0x10f, 1, probe).error().kind(), ErrorKind::AlreadyExists);
    EXPECT_FALSE(bus.add(0xff, 2, probe).ok());
    EXPECT_TRUE(bus.add(0x110, 1, probe).ok());
}

TEST(BusTest, AccessAcrossTheEndIsCut) {
    Bus bus;
    Probe probe;
    ASSERT_TRUE(bus.add(0x100, 4, probe).ok());
    const std::array<std::byte, 4> data{};
    EXPECT_TRUE(bus.write(0x102, data));
    EXPECT_EQ(probe.last_offset, 2U);
    EXPECT_EQ(probe.last_size, 2U);
}

TEST(BusTest, RemovedDeviceIsGone) {
    Bus bus;
    Probe probe;
    ASSERT_TRUE(bus.add(0x100, 4, probe).ok());
    bus.remove(0x100);
    const std::array<std::byte, 1> data{};
    EXPECT_FALSE(bus.write(0x100, data));
}

}  // namespace
}  // namespace strata::bus
