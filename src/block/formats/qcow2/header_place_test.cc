// Qcow2Header: the same header with its parts in other places.
#include <gtest/gtest.h>

#include "block/formats/qcow2/header.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kFar = 2048;

Header overlay(std::uint32_t version) {
    Header h;
    h.version = version;
    h.cluster_bits = 12;
    h.size = 1U << 20;
    h.l1_entries = 1;
    h.l1_offset = 3 * 4096;
    h.refcount_table_offset = 4096;
    h.refcount_table_clusters = 1;
    h.backing = std::string(300, 'b');
    h.backing_format = "raw";
    return h;
}

std::vector<std::byte> cluster_of(const Header& h) {
    std::vector<std::byte> bytes = serialise_header(h).value();
    bytes.resize(h.cluster());
    return bytes;
}

void expect_same(std::uint32_t version) {
    const Header h = overlay(version);
    const auto moved = move_header(cluster_of(h), kFar);
    ASSERT_TRUE(moved.has_value());
    const auto read = parse_header(*moved, "moved");
    ASSERT_TRUE(read.ok()) << read.error().text();
    EXPECT_EQ(read->backing, h.backing);
    EXPECT_EQ(read->backing_format, h.backing_format);
    EXPECT_EQ(read->version, version);
    EXPECT_EQ(read->l1_offset, h.l1_offset);
    EXPECT_GT(header_end(*moved), kFar + h.backing.size() - 1);
}

TEST(Qcow2HeaderPlaceTest, MovedHeaderOfVersion3SaysTheSame) {
    expect_same(3);
}

TEST(Qcow2HeaderPlaceTest, MovedHeaderOfVersion2SaysTheSame) {
    expect_same(2);
}

TEST(Qcow2HeaderPlaceTest, AMovedHeaderMovesAgain) {
    const Header h = overlay(3);
    const auto once = move_header(cluster_of(h), kFar);
    ASSERT_TRUE(once.has_value());
    const auto twice = move_header(*once, 1024);
    ASSERT_TRUE(twice.has_value());
    const auto read = parse_header(*twice, "moved");
    ASSERT_TRUE(read.ok()) << read.error().text();
    EXPECT_EQ(read->backing, h.backing);
}

TEST(Qcow2HeaderPlaceTest, WhatDoesNotFitBehindStays) {
    EXPECT_FALSE(move_header(cluster_of(overlay(3)), 4096 - 300).has_value());
    EXPECT_FALSE(move_header(cluster_of(overlay(2)), 4096 - 299).has_value());
}

TEST(Qcow2HeaderPlaceTest, GarbageEndsWithinTheCluster) {
    const std::vector<std::byte> garbage(4096, std::byte{0xFF});
    EXPECT_LE(header_end(garbage), garbage.size());
}

}  // namespace
}  // namespace strata::block::qcow2
