// VhdFooter, VhdHeader: limits and sizes.
#include "block/formats/vhd/header.h"

#include <gtest/gtest.h>

#include "base/endian.h"

namespace strata::block::vhd {
namespace {

void seal(std::vector<std::byte>& bytes, std::size_t at) {
    put(bytes, at, Be32(0U));
    std::uint32_t sum = 0;
    for (const std::byte each : bytes) {
        sum += static_cast<std::uint32_t>(each);
    }
    put(bytes, at, Be32(~sum));
}

TEST(VhdHeaderTest, FootersAreReadAsWritten) {
    Footer footer;
    footer.current_size = 102400;
    footer.geometry = geometry_of(102400);
    footer.data_offset = 512;
    const auto again = parse_footer(serialise_footer(footer), "test");
    ASSERT_TRUE(again.ok()) << again.error().text();
    EXPECT_EQ(again->disk_size(), 102400U);
    footer.creator = "vpc ";
    EXPECT_EQ(footer.disk_size(), footer.geometry.bytes());
}

TEST(VhdHeaderTest, TheGeometryNeverCoversMoreThanTheDisk) {
    for (const std::uint64_t size : {std::uint64_t{102400}, std::uint64_t{3} << 20,
                                     std::uint64_t{5} << 30, std::uint64_t{130} << 30, kMaxSize}) {
        EXPECT_LE(geometry_of(size).bytes(), size);
        EXPECT_GT(geometry_of(size).bytes() + (16ULL * 255 * 512), std::min(size, kMaxGeometry));
    }
}

TEST(VhdHeaderTest, BrokenFootersAreRefused) {
    Footer footer;
    footer.current_size = 1 << 20;
    auto bytes = serialise_footer(footer);
    EXPECT_FALSE(parse_footer(std::span(bytes).first(511), "test").ok());
    bytes[100] = std::byte{1};
    EXPECT_FALSE(parse_footer(bytes, "test").ok());  // checksum
    bytes = serialise_footer(footer);
    put(bytes, 60, Be32(9U));
    seal(bytes, 64);
    EXPECT_EQ(parse_footer(bytes, "test").error().kind(), ErrorKind::NotSupported);
    bytes = serialise_footer(footer);
    put(bytes, 48, Be64(~0ULL - 511));
    seal(bytes, 64);
    EXPECT_FALSE(parse_footer(bytes, "test").ok());
}

TEST(VhdHeaderTest, TablesThatCannotBeAreRefused) {
    Header header;
    header.table_offset = 1536;
    header.entries = 5;
    const auto good = serialise_header(header);
    ASSERT_TRUE(good.ok());
    EXPECT_TRUE(parse_header(*good, 10 << 20, "test").ok());
    EXPECT_FALSE(parse_header(*good, (10 << 20) + 512, "test").ok());
    for (const auto& [at, value] : {std::pair<std::size_t, std::uint32_t>{32, 0},
                                    {32, 3U << 20},
                                    {28, 0xFFFFFFFF},
                                    {20, 0},
                                    {20, 1537}}) {
        auto bytes = *good;
        put(bytes, at, Be32(value));
        seal(bytes, 36);
        EXPECT_FALSE(parse_header(bytes, 10 << 20, "test").ok()) << at << " " << value;
    }
    header.parent_name = std::string(600, 'x');
    EXPECT_FALSE(serialise_header(header).ok());
}

}  // namespace
}  // namespace strata::block::vhd
