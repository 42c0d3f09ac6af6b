// PcLayout tests: the memory map of small, large and impossible machines.
#include "machine/pc/pc_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace strata::machine::pc {
namespace {

constexpr std::uint64_t kMib = 1ULL << 20;
constexpr std::uint64_t kGib = 1ULL << 30;

const MachineType& type() {
    return machine_types().front();
}

TEST(PcLayoutTest, SmallMachineHasOnlyLowRam) {
    const auto layout = PcLayout::plan(type(), 256 * kMib, 40).value();
    EXPECT_EQ(layout.low_ram, 256 * kMib);
    EXPECT_EQ(layout.high_ram, 0U);
    EXPECT_EQ(layout.memory_map.size(), 5U);
    EXPECT_EQ(layout.pci_memory64.first, 64 * kGib);
}

TEST(PcLayoutTest, LargeMachineContinuesAtFourGib) {
    const auto layout = PcLayout::plan(type(), 8 * kGib, 40).value();
    EXPECT_EQ(layout.low_ram, 3 * kGib);
    EXPECT_EQ(layout.high_ram, 5 * kGib);
    EXPECT_EQ(layout.memory_map.back(),
              (boot::MemoryMapEntry{4 * kGib, 5 * kGib, boot::MemoryType::Ram}));
}

TEST(PcLayoutTest, WindowThatDoesNotFitIsLeftOut) {
    EXPECT_TRUE(PcLayout::plan(type(), kGib, 36).value().pci_memory64.empty());
}

TEST(PcLayoutTest, ImpossibleSizesAreRefused) {
    EXPECT_FALSE(PcLayout::plan(type(), 0, 40).ok());
    EXPECT_FALSE(PcLayout::plan(type(), 1, 40).ok());
    EXPECT_FALSE(PcLayout::plan(type(), 2 * kMib + 1, 40).ok());
    EXPECT_FALSE(PcLayout::plan(type(), 1ULL << 60, 40).ok());
    EXPECT_FALSE(PcLayout::plan(type(), ~0ULL & ~4095ULL, 52).ok());
}

TEST(MachineTypeTest, NamesAreFoundAndUnknownOnesListed) {
    EXPECT_EQ(find_machine_type("pc").value(), &type());
    EXPECT_EQ(find_machine_type("pc-1.0").value()->name, "pc-1.0");
    EXPECT_THAT(find_machine_type("pc-9").error().text(), ::testing::HasSubstr("pc-1.0"));
}

}  // namespace
}  // namespace strata::machine::pc
