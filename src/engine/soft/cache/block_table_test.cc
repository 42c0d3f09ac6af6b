// BlockTable: lists of blocks by page, whatever is taken out and in which order.
#include "engine/soft/cache/block_table.h"

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

class BlockTableTest : public testing::Test {
  protected:
    Block& add(std::uint64_t ram_offset, std::uint64_t rip, std::uint64_t second_offset = 0) {
        auto block = std::make_unique<Block>();
        block->ram_offset = ram_offset;
        block->rip = rip;
        block->guest_length = 8;
        block->second_offset = second_offset;
        block->code = code_ += 16;
        return table_.insert(std::move(block), 0);
    }
    std::size_t remove(std::uint64_t offset, std::uint64_t length) {
        std::vector<Block*> killed;
        table_.remove(offset, length, killed);
        return killed.size();
    }

    std::uint32_t code_ = 0;
    BlockTable table_{CodeLines::create(1U << 20).value()};
};

TEST_F(BlockTableTest, RangeTakesWhatWasMadeOfIt) {
    add(0x5000, 1);
    add(0x5100, 2);
    add(0x5200, 3);
    EXPECT_EQ(remove(0x5104, 1), 1U);
    EXPECT_EQ(remove(0x5104, 1), 0U);
    EXPECT_TRUE(table_.page_has_blocks(5));
    EXPECT_EQ(remove(0x5000, 0x1000), 2U);
    EXPECT_FALSE(table_.page_has_blocks(5));
}

// A library's page, mapped at other addresses by each process: a list that is walked for every
// block would take minutes.
TEST_F(BlockTableTest, PageWithVeryManyBlocksIsEmptiedAtOnce) {
    constexpr std::uint64_t kBlocks = 100'000;
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
        add(0x5000 + i % 256 * 16, i << 12);
    }
    EXPECT_EQ(remove(0x5000, 16), (kBlocks + 255) / 256);
    EXPECT_EQ(remove(0x5000, 0x1000), kBlocks - (kBlocks + 255) / 256);
    EXPECT_FALSE(table_.page_has_blocks(5));
}

TEST_F(BlockTableTest, BlockOfTwoPagesIsInBothLists) {
    Block& block = add(0x5ffc, 1, 0x9000);
    add(0x9000, 2);
    EXPECT_EQ(remove(0x9000, 1), 2U);
    EXPECT_TRUE(block.dead);
    EXPECT_FALSE(table_.page_has_blocks(5));
    EXPECT_FALSE(table_.page_has_blocks(9));
}

TEST_F(BlockTableTest, PageMappedTwiceInARow) {
    add(0x5ffc, 1, 0x5000);
    add(0x5ffc, 2);
    EXPECT_EQ(remove(0x5000, 1), 1U);
    EXPECT_EQ(remove(0x5ffc, 1), 1U);
    EXPECT_FALSE(table_.page_has_blocks(5));
}

TEST_F(BlockTableTest, TakenRegionLeavesNothing) {
    add(0x5000, 1);
    add(0x5ffc, 2, 0x9000);
    EXPECT_EQ(remove(0x5000, 1), 1U);
    EXPECT_EQ(table_.take(0).size(), 2U);
    EXPECT_FALSE(table_.page_has_blocks(5));
    EXPECT_FALSE(table_.page_has_blocks(9));
}

}  // namespace
}  // namespace strata::engine::soft
