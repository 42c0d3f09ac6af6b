// FwCfg tests: fwCfg tests.
#include "machine/pc/fw_cfg.h"

#include <array>

#include <gtest/gtest.h>

namespace strata::machine::pc {
namespace {

unsigned read_byte(FwCfg& device) {
    std::array<std::byte, 1> byte{};
    device.read(1, byte);
    return std::to_integer<unsigned>(byte[0]);
}

void select(FwCfg& device, unsigned key) {
    const std::array<std::byte, 2> bytes = {static_cast<std::byte>(key),
                                            static_cast<std::byte>(key >> 8)};
    device.write(0, bytes);
}

TEST(FwCfgTest, ItemsReadFromTheirStartAndEndInZeros) {
    FwCfg device(3, 1 << 20);
    select(device, 5);
    EXPECT_EQ(read_byte(device), 3U);
    EXPECT_EQ(read_byte(device), 0U);
    EXPECT_EQ(read_byte(device), 0U);
    select(device, 0);
    EXPECT_EQ(read_byte(device), 'Q');
    select(device, 0x4242);
    EXPECT_EQ(read_byte(device), 0U);
}

}  // namespace
}  // namespace strata::machine::pc
