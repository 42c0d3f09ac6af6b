// Text: sizes, integers, splitting and near matches.
#include "base/text.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

TEST(ParseSizeTest, SuffixesArePowersOf1024) {
    EXPECT_EQ(*parse_size("512"), 512U);
    EXPECT_EQ(*parse_size("64k"), 65536U);
    EXPECT_EQ(*parse_size("256MiB"), 256U << 20);
    EXPECT_EQ(*parse_size("1.5G"), 3ULL << 29);
}

TEST(ParseSizeTest, BareNumberTakesTheGivenUnit) {
    EXPECT_EQ(*parse_size("256", 1 << 20), 256U << 20);
}

TEST(ParseSizeTest, OverflowAndNonsenseAreRefused) {
    EXPECT_EQ(parse_size("16E").error().kind(), ErrorKind::InvalidArgument);
    EXPECT_FALSE(parse_size("99999999999999999999").ok());
    EXPECT_FALSE(parse_size("-1").ok());
    EXPECT_FALSE(parse_size("").ok());
    EXPECT_FALSE(parse_size("4X").ok());
}

TEST(ParseIntegerTest, RangeIsEnforced) {
    EXPECT_EQ(*parse_integer("0x10", 0, 16), 16U);
    EXPECT_FALSE(parse_integer("17", 0, 16).ok());
    EXPECT_FALSE(parse_integer("1x", 0, 16).ok());
}

TEST(FormatSizeTest, OneDecimalAtMost) {
    EXPECT_EQ(format_size(0), "0 B");
    EXPECT_EQ(format_size(1536), "1.5 KiB");
    EXPECT_EQ(format_size(8ULL << 30), "8 GiB");
}

TEST(SplitTest, EmptyPartsAreKept) {
    EXPECT_TRUE(split("", ',').empty());
    EXPECT_EQ(split("a,,b", ',').size(), 3U);
}

TEST(NearestTest, FindsTheTypo) {
    EXPECT_EQ(nearest("memroy", {"cpus", "memory", "disk"}), "memory");
    EXPECT_EQ(nearest("zzzzzz", {"cpus", "memory", "disk"}), "");
}

}  // namespace
}  // namespace strata
