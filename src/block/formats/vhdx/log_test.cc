// VhdxLog: sequences that hold and that do not.
#include "block/formats/vhdx/log.h"

#include <gtest/gtest.h>

#include "base/endian.h"

namespace strata::block::vhdx {
namespace {

constexpr std::size_t kRing = 64U << 10, kSector = 4096;
const RawUuid kId = {std::byte{1}, std::byte{2}};

void seal(std::vector<std::byte>& ring, std::size_t at, std::size_t length) {
    put(ring, at + 4, Le32(0U));
    put(ring, at + 4, Le32(crc32c(std::span(ring).subspan(at, length))));
}

/// An entry at `at` of one data descriptor for file offset `target`, filled with `fill`.
void entry(std::vector<std::byte>& ring, std::size_t at, std::uint64_t sequence, std::uint32_t tail,
           std::uint64_t target, std::byte fill) {
    put(ring, at, Le32(0x65676F6CU));
    put(ring, at + 8, Le32(static_cast<std::uint32_t>(2 * kSector)));
    put(ring, at + 12, Le32(tail));
    put(ring, at + 16, Le64(sequence));
    put(ring, at + 24, Le32(1U));
    put(ring, at + 32, kId);
    put(ring, at + 56, Le64(8ULL << 20));
    put(ring, at + 64, Le32(0x63736564U));
    put(ring, at + 68, Le32(0x01010101U * static_cast<std::uint32_t>(fill)));
    put(ring, at + 72, Le64(0x0101010101010101ULL * static_cast<std::uint64_t>(fill)));
    put(ring, at + 80, Le64(target));
    put(ring, at + 88, Le64(sequence));
    put(ring, at + kSector, Le32(0x61746164U));
    put(ring, at + kSector + 4, Le32(static_cast<std::uint32_t>(sequence >> 32)));
    std::fill_n(ring.begin() + static_cast<std::ptrdiff_t>(at + kSector + 8), kSector - 12, fill);
    put(ring, at + 2 * kSector - 4, Le32(static_cast<std::uint32_t>(sequence)));
    seal(ring, at, 2 * kSector);
}

std::vector<std::byte> sector_of(const LogPatch& patch, std::uint64_t offset) {
    std::vector<std::byte> bytes(kSector);
    patch.apply(offset, bytes);
    return bytes;
}

TEST(VhdxLogTest, TheSequenceIsReplayedInOrder) {
    std::vector<std::byte> ring(kRing);
    entry(ring, 0, 7, 0, 1 << 20, std::byte{0xAA});
    entry(ring, 2 * kSector, 8, 0, 1 << 20, std::byte{0xBB});
    entry(ring, 4 * kSector, 9, 0, 2 << 20, std::byte{0xCC});
    const auto patch = replay_log(ring, kId, "test");
    ASSERT_TRUE(patch.ok()) << patch.error().text();
    EXPECT_EQ(sector_of(*patch, 1 << 20), std::vector<std::byte>(kSector, std::byte{0xBB}));
    EXPECT_EQ(sector_of(*patch, 2 << 20), std::vector<std::byte>(kSector, std::byte{0xCC}));
    EXPECT_EQ(patch->file_size, 8U << 20);
}

TEST(VhdxLogTest, WhatLiesBeforeTheTailIsDone) {
    std::vector<std::byte> ring(kRing);
    entry(ring, 0, 7, 0, 1 << 20, std::byte{0xAA});
    entry(ring, 2 * kSector, 8, 2 * kSector, 2 << 20, std::byte{0xBB});
    const auto patch = replay_log(ring, kId, "test");
    ASSERT_TRUE(patch.ok());
    EXPECT_EQ(sector_of(*patch, 1 << 20), std::vector<std::byte>(kSector));
    EXPECT_EQ(patch->ranges().size(), 1U);
}

TEST(VhdxLogTest, ATornEntryEndsTheSequence) {
    std::vector<std::byte> ring(kRing);
    entry(ring, 0, 7, 0, 1 << 20, std::byte{0xAA});
    entry(ring, 2 * kSector, 8, 0, 1 << 20, std::byte{0xBB});
    ring[3 * kSector + 100] = std::byte{0};
    const auto patch = replay_log(ring, kId, "test");
    ASSERT_TRUE(patch.ok());
    EXPECT_EQ(sector_of(*patch, 1 << 20), std::vector<std::byte>(kSector, std::byte{0xAA}));
}

TEST(VhdxLogTest, TheRingWraps) {
    std::vector<std::byte> ring(kRing);
    entry(ring, kRing - 2 * kSector, 7, kRing - 2 * kSector, 1 << 20, std::byte{0xAA});
    entry(ring, 0, 8, kRing - 2 * kSector, 2 << 20, std::byte{0xBB});
    const auto patch = replay_log(ring, kId, "test");
    ASSERT_TRUE(patch.ok());
    EXPECT_EQ(patch->ranges().size(), 2U);
}

TEST(VhdxLogTest, NoSequenceIsAnError) {
    std::vector<std::byte> ring(kRing);
    EXPECT_FALSE(replay_log(ring, kId, "test").ok());
    entry(ring, 2 * kSector, 8, 0, 1 << 20, std::byte{0xBB});  // its tail is gone
    EXPECT_FALSE(replay_log(ring, kId, "test").ok());
    EXPECT_FALSE(replay_log({}, kId, "test").ok());
}

TEST(VhdxLogTest, OverlappingRangesKeepTheLastWrite) {
    LogPatch patch;
    patch.set(4096, std::vector<std::byte>(8192, std::byte{1}));
    patch.zero(8192, 1U << 30);
    patch.set(12288, std::vector<std::byte>(4096, std::byte{2}));
    std::vector<std::byte> bytes(16384, std::byte{9});
    patch.apply(4096, bytes);
    EXPECT_EQ(bytes[0], std::byte{1});
    EXPECT_EQ(bytes[4096], std::byte{0});
    EXPECT_EQ(bytes[8192], std::byte{2});
    EXPECT_EQ(bytes[12288], std::byte{0});
}

}  // namespace
}  // namespace strata::block::vhdx
