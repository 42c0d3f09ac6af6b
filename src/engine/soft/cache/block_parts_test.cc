// BlockParts: what is packed comes out again, and every exit knows its block.
#include "engine/soft/cache/block_parts.h"

#include <vector>

#include <gtest/gtest.h>

#include "engine/soft/cache/block_table.h"

namespace strata::engine::soft {
namespace {

TEST(BlockPartsTest, ExitsKnowTheirBlockAndMarksStayInOrder) {
    Block block;
    std::vector<Exit> exits(5);
    for (std::uint32_t i = 0; i < exits.size(); ++i) {
        exits[i].target = 0x1000 + i;
        exits[i].stub = 100 + i;
        exits[i].flags = FlagsPlace::Either;
    }
    exits[2].ungrouped = true;
    exits[3].second_page = true;
    const std::vector<InsnMark> marks{{0, 0}, {7, 3}, {19, InsnMark::kHostFlags | 5}};
    block.parts = BlockParts(block, exits, marks);
    ASSERT_EQ(block.parts.exits().size(), 5U);
    for (std::uint32_t i = 0; i < exits.size(); ++i) {
        const Exit& exit = block.parts.exits()[i];
        EXPECT_EQ(&exit.owner(), &block);
        EXPECT_EQ(exit.target, 0x1000 + i);
        EXPECT_EQ(exit.flags, FlagsPlace::Either);
        EXPECT_EQ(exit.ungrouped, i == 2);
        EXPECT_EQ(exit.second_page, i == 3);
        EXPECT_EQ(block.exit_at(100 + i + Exit::kStubBytes), &exit);
    }
    EXPECT_EQ(block.exit_at(100), nullptr);
    ASSERT_EQ(block.parts.marks().size(), 3U);
    EXPECT_EQ(block.parts.marks()[2].guest, InsnMark::kHostFlags | 5);
}

TEST(BlockPartsTest, NoneOfEitherIsFine) {
    Block block;
    EXPECT_TRUE(block.parts.exits().empty());
    EXPECT_TRUE(block.parts.marks().empty());
    block.parts = BlockParts(block, {}, std::vector<InsnMark>{{1, 2}});
    EXPECT_TRUE(block.parts.exits().empty());
    EXPECT_EQ(block.parts.marks()[0].host, 1);
}

}  // namespace
}  // namespace strata::engine::soft
