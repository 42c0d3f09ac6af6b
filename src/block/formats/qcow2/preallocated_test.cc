// Tests of images whose clusters were given in advance: what was never written is told as zeros,
// without a look at the bytes.
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 64U << 20, kWritten = 1U << 20;

class Preallocated : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "aheadXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    NodePtr open() {
        OpenOptions options;
        options.path = folder_ + "/image";
        options.format = "qcow2";
        return loop_->run(open_node(*loop_, std::move(options))).value();
    }
    /// With `preallocation`, and a megabyte of data in the middle.
    void make(const std::string& preallocation) {
        CreateRequest request{folder_ + "/image", kSize, {{"preallocation", preallocation}}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", std::move(request))).ok());
        const NodePtr node = open();
        const std::vector<std::byte> bytes(kWritten, std::byte{1});
        ASSERT_TRUE(loop_->run(node->write(kSize / 2, Buffers::of(bytes))).ok());
        ASSERT_TRUE(loop_->run(node->close()).ok());
    }
    /// Bytes that are told to be data.
    std::uint64_t data() {
        const NodePtr node = open();
        std::uint64_t found = 0;
        for (std::uint64_t at = 0; at < kSize;) {
            const auto extent = loop_->run(node->status(at, kSize - at));
            if (!extent.ok()) {
                ADD_FAILURE() << extent.error().text();
                break;
            }
            EXPECT_TRUE(extent->has_offset || extent->kind == Extent::Kind::Unallocated);
            found += extent->kind == Extent::Kind::Data ? extent->length : 0;
            at += extent->length;
        }
        return found;
    }
    std::unique_ptr<Loop> loop_;
    std::string folder_;
};

TEST_F(Preallocated, WhatWasNeverWrittenIsZeros) {
    make("metadata");
    EXPECT_EQ(data(), kWritten);
}

TEST_F(Preallocated, ZerosThatWereWrittenOutAreData) {
    make("full");
    EXPECT_EQ(data(), kSize);
}

// A file that is a hole almost everywhere, and a refcount table that names one block of zeros again
// and again: to count all that would take minutes.
TEST_F(Preallocated, CountingAnImageOfHolesEnds) {
    constexpr std::uint64_t kTable = 1ULL << 30, kBlock = 2ULL << 30, kEnd = 1ULL << 40;
    constexpr std::size_t kTableBytes = 8U << 20;
    CreateRequest request{folder_ + "/image", kSize, {{"cluster_size", "512"}}};
    ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", std::move(request))).ok());
    {
        const NodePtr node = open();
        const std::vector<std::byte> bytes(kWritten, std::byte{1});
        ASSERT_TRUE(loop_->run(node->write(0, Buffers::of(bytes))).ok());
        ASSERT_TRUE(loop_->run(node->close()).ok());
    }
    std::filesystem::resize_file(folder_ + "/image", kEnd);
    {
        std::fstream file(folder_ + "/image", std::ios::in | std::ios::out | std::ios::binary);
        const auto poke = [&](std::uint64_t offset, std::span<const std::byte> bytes) {
            file.seekp(static_cast<std::streamoff>(offset));
            file.write(reinterpret_cast<const char*>(bytes.data()),  // SAFETY: plain bytes
                       static_cast<std::streamsize>(bytes.size()));
        };
        const std::array<Be64, 1> place{kTable};
        const std::array<Be32, 1> clusters{static_cast<std::uint32_t>(kTableBytes / 512)};
        const std::vector<Be64> table(kTableBytes / 8, Be64{kBlock});
        poke(kTable, std::as_bytes(std::span(table)));
        poke(48, std::as_bytes(std::span(place)));
        poke(56, std::as_bytes(std::span(clusters)));
    }
    EXPECT_GE(data(), kWritten);  // long before the test's time is up
}

}  // namespace
}  // namespace strata::block
