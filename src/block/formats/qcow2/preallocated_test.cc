// Tests of images whose clusters were given in advance: what was never written is told as zeros,
// without a look at the bytes.
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

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
            EXPECT_TRUE(extent.ok() && extent->has_offset);
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

}  // namespace
}  // namespace strata::block
