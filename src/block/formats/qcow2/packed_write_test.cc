// Qcow2Node: several clusters compressed at once.
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "block/loop.h"
#include "block/packed_source.h"
#include "block/packed_target.h"
#include "block/registry.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kCluster = 64U << 10;
constexpr std::size_t kShort = 2560;  ///< the last cluster
constexpr std::uint64_t kSize = 20 * kCluster + kShort;

class PackedWriteTest : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "packedXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
        CreateRequest request{folder_ + "/disk", kSize, {{"compression_type", GetParam()}}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", std::move(request))).ok());
        node_ = open();
    }
    void TearDown() override {
        node_.reset();
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    NodePtr open() {
        OpenOptions options;
        options.path = folder_ + "/disk";
        options.format = "qcow2";
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok()) << (node.ok() ? "" : node.error().text());
        return node.ok() ? *node : nullptr;
    }
    Result<> pack(std::uint64_t offset, std::span<const std::byte> bytes) {
        auto* target = dynamic_cast<PackedTarget*>(node_.get());
        return loop_->run(target->write_packed(offset, Buffers::of(bytes)));
    }
    std::vector<std::byte> read(std::uint64_t offset, std::size_t size) {
        std::vector<std::byte> bytes(size);
        EXPECT_TRUE(loop_->run(node_->read(offset, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    std::vector<PackedPiece> pieces(std::uint64_t offset) {
        return dynamic_cast<PackedSource*>(node_.get())->packed_pieces(offset, kSize - offset);
    }
    void expect_sound() {
        ASSERT_TRUE(loop_->run(node_->close()).ok());
        node_.reset();
        node_ = open();
        const auto report = loop_->run(node_->check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_EQ(report->corruptions + report->leaks, 0U);
    }
    static std::vector<std::byte> content(std::size_t size) {
        std::vector<std::byte> bytes(size);
        for (std::size_t at = 0; at < size; ++at) {
            bytes[at] = static_cast<std::byte>((at / 3 + at / kCluster * 17) % 101);
        }
        return bytes;
    }
    /// Makes a part of `bytes` incompressible.
    static void stir(std::span<std::byte> bytes) {
        std::uint64_t state = 1;
        for (std::byte& each : bytes) {
            state = state * 6364136223846793005U + 1442695040888963407U;
            each = static_cast<std::byte>(state >> 56);
        }
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
    NodePtr node_;
};

TEST_P(PackedWriteTest, ClustersLieSideBySide) {
    const auto bytes = content(8 * kCluster);
    ASSERT_TRUE(pack(2 * kCluster, bytes).ok());
    EXPECT_EQ(read(2 * kCluster, bytes.size()), bytes);
    const auto places = pieces(2 * kCluster);
    ASSERT_EQ(places.size(), 8U);
    for (std::size_t i = 1; i < places.size(); ++i) {
        EXPECT_LE(places[i].host, places[i - 1].host + places[i - 1].length);
        EXPECT_GT(places[i].host, places[i - 1].host);
    }
    expect_sound();
    EXPECT_EQ(read(2 * kCluster, bytes.size()), bytes);
}

TEST_P(PackedWriteTest, WhatDoesNotPayIsWrittenAsItIs) {
    auto bytes = content(5 * kCluster);
    stir(std::span(bytes).subspan(2 * kCluster, kCluster));
    ASSERT_TRUE(pack(0, bytes).ok());
    EXPECT_EQ(pieces(0).size(), 2U);
    EXPECT_TRUE(pieces(2 * kCluster).empty());
    EXPECT_EQ(pieces(3 * kCluster).size(), 2U);
    expect_sound();
    EXPECT_EQ(read(0, bytes.size()), bytes);
}

TEST_P(PackedWriteTest, TheDisksLastClusterMayBeShort) {
    const auto bytes = content(3 * kCluster + kShort);
    ASSERT_TRUE(pack(kSize - bytes.size(), bytes).ok());
    expect_sound();
    EXPECT_EQ(read(kSize - bytes.size(), bytes.size()), bytes);
    const auto extent = loop_->run(node_->status(20 * kCluster, kShort));
    ASSERT_TRUE(extent.ok());
    EXPECT_TRUE(extent->compressed);
}

TEST_P(PackedWriteTest, WhatHasDataIsRefusedAndLeftAlone) {
    const auto old = content(kCluster);
    ASSERT_TRUE(pack(3 * kCluster, old).ok());
    const auto bytes = content(4 * kCluster);
    const Result<> done = pack(kCluster, bytes);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().system_errno(), EEXIST);
    EXPECT_EQ(read(3 * kCluster, kCluster), old);
    expect_sound();
}

TEST_P(PackedWriteTest, OnlyWholeClustersAreTaken) {
    const auto bytes = content(2 * kCluster);
    EXPECT_FALSE(pack(512, bytes).ok());
    EXPECT_FALSE(pack(0, std::span(bytes).first(kCluster + 512)).ok());
    EXPECT_FALSE(loop_->run(node_->write_compressed(0, Buffers::of(bytes))).ok());
    EXPECT_FALSE(pack(20 * kCluster, bytes).ok());  // beyond the end
    EXPECT_TRUE(pieces(0).empty());
    expect_sound();
}

INSTANTIATE_TEST_SUITE_P(Compressions, PackedWriteTest, testing::Values("zlib", "zstd"),
                         [](const auto& which) { return std::string(which.param); });

}  // namespace
}  // namespace strata::block::qcow2
