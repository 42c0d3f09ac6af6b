// AlignedBuffer: sizes, alignment, and what a thread keeps.
#include "block/aligned_buffer.h"

#include <cstdint>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace strata::block {
namespace {

TEST(AlignedBufferTest, EverySizeIsThereAndAligned) {
    std::vector<AlignedBuffer> all;
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{4096}, std::size_t{4097},
                                    std::size_t{65536}, std::size_t{262144}, std::size_t{262145}}) {
        all.emplace_back(bytes);
        EXPECT_EQ(all.back().size(), bytes);
        // SAFETY: the address as a number, to look at its low bits.
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(all.back().bytes().data()) % 4096, 0U);
        all.back().view().fill(std::byte{5});
    }
    for (const AlignedBuffer& each : all) {
        EXPECT_EQ(each.bytes().back(), std::byte{5});
    }
}

#if !defined(STRATA_SANITIZED)
TEST(AlignedBufferTest, WhatWasDroppedIsGivenAgain) {
    const std::byte* first = nullptr;
    {
        const AlignedBuffer buffer(65536);
        first = buffer.bytes().data();
    }
    const AlignedBuffer smaller(40000);  // needs a buffer of 64 KiB, too
    EXPECT_EQ(smaller.bytes().data(), first);
    const AlignedBuffer other(65536);
    EXPECT_NE(other.bytes().data(), first);
}
#endif

TEST(AlignedBufferTest, MayBeDroppedByAnotherThreadAndAfterMuchWasKept) {
    std::vector<AlignedBuffer> many;
    many.reserve(100);
    for (int i = 0; i < 100; ++i) {
        many.emplace_back(65536);
    }
    std::jthread([taken = std::move(many)]() mutable { taken.clear(); }).join();
    const AlignedBuffer next(65536);
    next.view().fill(std::byte{1});
    EXPECT_EQ(next.bytes().front(), std::byte{1});
}

}  // namespace
}  // namespace strata::block
