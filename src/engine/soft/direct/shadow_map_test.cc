// ShadowMap: the book, and the orders made of its changes.
#include "engine/soft/direct/shadow_map.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kRw = ShadowPage::kRead | ShadowPage::kWrite,
                        kRx = ShadowPage::kRead | ShadowPage::kExecute;

TEST(ShadowMapTest, NeighboursBecomeOneOrder) {
    ShadowMap map;
    map.set(0x1001, {71, kRw});
    map.set(0x1000, {70, kRw});
    map.set(0x1002, {72, kRw});
    const auto orders = map.take_orders();
    ASSERT_EQ(orders.size(), 1U);
    EXPECT_EQ(orders[0].address, 0x1000000U);
    EXPECT_EQ(orders[0].length, 3U * 4096);
    EXPECT_EQ(orders[0].ram_offset, 70U * 4096);
    EXPECT_EQ(orders[0].protection, static_cast<std::uint32_t>(PROT_READ | PROT_WRITE));
    EXPECT_EQ(map.runs(), 1U);
    EXPECT_FALSE(map.changed());
}

TEST(ShadowMapTest, OtherRightsOrOtherRamBreakARun) {
    ShadowMap map;
    map.set(0x10, {70, kRw});
    map.set(0x11, {71, kRx});
    map.set(0x12, {90, kRx});
    EXPECT_EQ(map.runs(), 3U);
    EXPECT_EQ(map.take_orders().size(), 3U);
}

TEST(ShadowMapTest, UnmappingTheMiddleSplitsARun) {
    ShadowMap map;
    for (std::uint64_t i = 0; i < 5; ++i) {
        map.set(511 + i, {100 + i, kRw});  // across two leaves
    }
    EXPECT_EQ(map.runs(), 1U);
    (void)map.take_orders();
    map.set(513, {});
    const auto orders = map.take_orders();
    ASSERT_EQ(orders.size(), 1U);
    EXPECT_EQ(orders[0].flags, 0U);
    EXPECT_EQ(orders[0].address, 513U * 4096);
    EXPECT_EQ(map.runs(), 2U);
    EXPECT_EQ(map.pages(), 4U);
}

TEST(ShadowMapTest, UnchangedPagesGiveNoOrders) {
    ShadowMap map;
    map.set(7, {1, kRw});
    (void)map.take_orders();
    map.set(7, {1, kRw});
    EXPECT_FALSE(map.changed());
    map.clear();
    EXPECT_EQ(map.pages(), 0U);
    EXPECT_FALSE(map.at(7).mapped());
}

TEST(ShadowMapTest, EmptyRegionsGoAndAreUnmapped) {
    ShadowMap map;
    map.set(0x9000, {});
    EXPECT_EQ(map.leaves(), 0U);
    map.set(0x1000, {70, kRw});
    map.set(0x2000, {71, kRw});
    (void)map.take_orders();
    map.set(0x1000, {});
    map.drop_empty();
    EXPECT_EQ(map.leaves(), 1U);
    EXPECT_EQ(map.pages(), 1U);
    const auto orders = map.take_orders();
    ASSERT_EQ(orders.size(), 1U);
    EXPECT_EQ(orders[0].address, 0x1000000U);
    EXPECT_EQ(orders[0].flags, 0U);
    EXPECT_TRUE(map.at(0x2000).mapped());
}

TEST(ShadowMapTest, RegionsThatWereDroppedAreNotRemembered) {
    ShadowMap map;
    map.set(0x1000, {70, kRw});
    map.set(0x1000, {});
    map.drop_empty();
    EXPECT_EQ(map.leaf(0x1000 / ShadowMap::kLeafPages), nullptr);
    map.set(0x1000, {71, kRw});
    EXPECT_EQ(map.at(0x1000).ram_page(), 71U);
    map.clear();
    EXPECT_FALSE(map.at(0x1000).mapped());
}

TEST(ShadowMapTest, LastRamPageFits) {
    const ShadowPage page((1U << 28) - 1, kRx);
    EXPECT_EQ(page.ram_page(), (1U << 28) - 1);
    EXPECT_EQ(page.rights(), kRx);
}

}  // namespace
}  // namespace strata::engine::soft
