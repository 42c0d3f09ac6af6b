// Compacting: whatever lies in a qcow2 file, it reads as before, nothing leaks, and the file is as
// long as what it holds.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/compact.h"
#include "block/filters/filter_node.h"
#include "block/jobs/compact.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 8U << 20;
constexpr std::uint64_t kPiece = 64U << 10;

/// What a server exports, or a device: its size stays.
class FirmNode final : public FilterNode {
  public:
    using FilterNode::FilterNode;
    [[nodiscard]] std::string_view format() const override { return "firm"; }
    Task<> resize(std::uint64_t /*size*/, Preallocation /*preallocation*/) override {
        co_return lacks("resizing");
    }
};

class Compacting : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "compactXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
        model_.assign(kSize, std::byte{0});
    }
    void TearDown() override {
        node_.reset();
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] std::string path() const { return folder_ + "/image"; }
    void make(OptionList options, std::string format = "qcow2") {
        CreateRequest request{path(), kSize, std::move(options)};
        ASSERT_TRUE(loop_->run(create_image(*loop_, format, std::move(request))).ok());
        open(format);
    }
    void open(std::string format = "qcow2", OptionList extra = {}) {
        OpenOptions options;
        options.path = path();
        options.format = std::move(format);
        options.extra = std::move(extra);
        options.references = follow_references();
        options.open_backing = options.open_data = !apart_;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(node.ok()) << node.error().text();
        node_ = *node;
    }
    void close() {
        ASSERT_TRUE(loop_->run(node_->close()).ok());
        node_.reset();
    }
    void write(std::uint64_t offset, std::uint64_t length, unsigned seed) {
        const auto part = std::span(model_).subspan(offset, length);
        std::mt19937 random(seed);
        for (std::byte& each : part) {
            each = static_cast<std::byte>(random() % 3 + (seed == 0 ? 0 : 1));
        }
        if (seed == 0) {
            std::ranges::fill(part, std::byte{0});
        }
        ASSERT_TRUE(loop_->run(node_->write(offset, Buffers::of(part))).ok());
    }
    void fill() {
        for (std::uint64_t at = 0; at < kSize; at += kPiece) {
            write(at, kPiece, static_cast<unsigned>(at / kPiece + 1));
        }
    }
    /// Half of the pieces, the first ones of the file among them, become zeros that are written.
    void blank() {
        for (std::uint64_t at = 0; at < kSize * 3 / 4; at += kPiece) {
            if (at / kPiece % 8 != 5) {
                write(at, kPiece, 0);
            }
        }
    }
    CompactReport compact() {
        JobControl control;
        auto report = loop_->run(compact_image(node_, control));
        EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().text());
        return report.ok() ? *report : CompactReport{};
    }
    void expect_whole() {
        const auto report = loop_->run(node_->check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_TRUE(report->clean()) << (report->messages.empty() ? "" : report->messages[0]);
        expect_content(model_);
    }
    void expect_content(const std::vector<std::byte>& wanted) {
        std::vector<std::byte> got(wanted.size());
        ASSERT_TRUE(loop_->run(node_->read(0, Buffers(std::span(got)))).ok());
        EXPECT_TRUE(got == wanted);
    }
    [[nodiscard]] std::uint64_t length() const { return std::filesystem::file_size(path()); }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
    NodePtr node_;
    bool apart_ = false;  ///< without the files that the image names
    std::vector<std::byte> model_;
};

TEST_F(Compacting, ZerosGoAndTheFileEndsWithItsData) {
    make({{"cluster_size", "4096"}});
    fill();
    blank();
    const auto report = compact();
    EXPECT_GT(report.zeroes, kSize / 2);
    EXPECT_GT(report.moved, 0U);
    expect_whole();
    const auto data = static_cast<std::uint64_t>(
        std::ranges::count_if(model_, [](std::byte each) { return each != std::byte{0}; }));
    EXPECT_LT(length(), data + (64U << 10));
    close();
    open();
    expect_whole();
    fill();  // what was cut off is given out again
    expect_whole();
}

TEST_F(Compacting, SnapshotsReadAsBefore) {
    make({{"cluster_size", "4096"}});
    fill();
    const std::vector<std::byte> first = model_;
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    blank();
    const std::vector<std::byte> second = model_;
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    fill();
    write(0, kSize / 2, 77);
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    ASSERT_TRUE(loop_->run(node_->delete_snapshot("1")).ok());
    const std::uint64_t before = length();
    EXPECT_GT(compact().moved, 0U);
    EXPECT_LT(length(), before);
    expect_whole();
    ASSERT_TRUE(loop_->run(node_->apply_snapshot("2")).ok());
    expect_content(second);
}

TEST_F(Compacting, CompressedClustersMove) {
    make({{"cluster_size", "4096"}});
    fill();
    ASSERT_TRUE(loop_->run(node_->make_empty()).ok());
    write(kSize / 2, kSize / 2, 5);
    std::ranges::fill(std::span(model_).first(kSize / 2), std::byte{0});
    for (std::uint64_t at = 0; at < kSize / 2; at += 4096) {
        const auto part = std::span(model_).subspan(at, 4096);
        std::ranges::fill(part, static_cast<std::byte>(at / 4096 % 250 + 1));
        std::ranges::fill(part.first(1000), static_cast<std::byte>(at / 8192 % 3 + 1));
        ASSERT_TRUE(loop_->run(node_->write_compressed(at, Buffers::of(part))).ok());
    }
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    write(kPiece + 512, 512, 9);
    write(kSize / 2, kSize / 4, 0);
    ASSERT_TRUE(loop_->run(node_->delete_snapshot("1")).ok());
    compact();
    expect_whole();
    const std::uint64_t once = length();
    EXPECT_EQ(compact().moved, 0U);
    EXPECT_EQ(length(), once);
}

TEST_F(Compacting, SubclustersEncryptionAndBitmapsStay) {
    make({{"cluster_size", "16384"}, {"extended_l2", "on"}});
    fill();
    blank();
    write(700 * 512, 512, 3);
    Bitmap bitmap;
    bitmap.info = {.name = "changed", .granularity = 65536, .in_use = false, .automatic = false};
    bitmap.size = kSize;
    bitmap.bits.assign(2, 0x1234567890ABCDEFULL);
    ASSERT_TRUE(loop_->run(node_->store_bitmap(bitmap)).ok());
    compact();
    expect_whole();
    close();
    open();
    const auto again = loop_->run(node_->read_bitmap("changed"));
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->bits, bitmap.bits);
    expect_whole();
}

TEST_F(Compacting, EncryptedClustersAreEncipheredAnew) {
    const OptionList key{{"encrypt.key-secret", "geheim"}};
    CreateRequest request{path(), kSize, key};
    request.options.emplace_back("encrypt.format", "luks");
    request.options.emplace_back("encrypt.iter-time", "1");
    request.options.emplace_back("cluster_size", "4096");
    ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", std::move(request))).ok());
    open("qcow2", key);
    fill();
    blank();
    EXPECT_GT(compact().moved, 0U);
    expect_whole();
    close();
    open("qcow2", key);
    expect_whole();
}

TEST_F(Compacting, FilesThatKeepTheirSizeArePackedAtTheLimitsPace) {
    make({{"cluster_size", "4096"}});
    fill();
    blank();
    const std::uint64_t zeros = 5 * kPiece;  // the first ones
    ASSERT_TRUE(loop_->run(node_->write_zeroes(0, zeros, {.may_unmap = true})).ok());
    ASSERT_TRUE(loop_->run(node_->discard(0, zeros)).ok());
    close();
    const std::uint64_t before = length();
    OpenOptions file, options;
    file.path = options.path = path();
    file.format = "file";
    options.format = "qcow2";
    NodePtr firm =
        std::make_shared<FirmNode>(loop_->run(open_node(*loop_, std::move(file))).value());
    node_ = loop_->run(open_format(std::move(firm), std::move(options))).value();
    std::uint64_t paced = 0;
    CompactWatch watch;
    watch.look = [&](std::uint64_t bytes) -> Task<> {
        paced += bytes;
        co_return ok();
    };
    auto& packs = dynamic_cast<Compactable&>(*node_);
    const auto report = loop_->run(packs.pack_file(std::move(watch)));
    ASSERT_TRUE(report.ok()) << report.error().text();
    EXPECT_GT(report->moved, 0U);
    EXPECT_EQ(report->moved, paced);
    EXPECT_EQ(length(), before);
    expect_whole();
    close();
    open();
    expect_whole();
}

TEST_F(Compacting, StoppedItIsWholeAndGoesOn) {
    make({{"cluster_size", "4096"}});
    fill();
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    blank();
    ASSERT_TRUE(loop_->run(node_->flush()).ok());
    auto& packs = dynamic_cast<Compactable&>(*node_);
    ASSERT_TRUE(loop_->run(node_->delete_snapshot("1")).ok());
    const std::uint64_t start = length();
    for (unsigned i = 0;; ++i) {
        ASSERT_LT(i, 200U) << "it gets nowhere";
        unsigned left = 5;
        CompactWatch watch;
        watch.advance = [&left](std::uint64_t) -> Result<> {
            return left-- == 0 ? Result<>(Error(ErrorKind::Failed, "stopped")) : ok();
        };
        const auto done = loop_->run(packs.pack_file(std::move(watch)));
        expect_whole();
        if (done.ok()) {
            EXPECT_GT(i, 0U);
            break;
        }
    }
    EXPECT_LE(length(), start);
}

// A copy whose cluster has no room for another count stays nobody's: its place is given out again.
TEST_F(Compacting, PackedClustersWithNarrowCountsShareNoPlaces) {
    make({{"cluster_size", "4096"}, {"refcount_bits", "2"}});
    const std::uint64_t table = 2U << 20;
    std::mt19937 random(1);
    const auto pack = [&](std::uint64_t at) {
        const auto part = std::span(model_).subspan(at, 4096);
        std::ranges::generate(part.first(2500), [&] { return static_cast<std::byte>(random()); });
        ASSERT_TRUE(loop_->run(node_->write_compressed(at, Buffers::of(part))).ok());
        close();
        open();  // the next one gets a cluster of its own
    };
    write(3 * table, 64 * 4096, 1);
    for (std::uint64_t at = 0; at < 3 * table; at += table) {
        pack(at + 4096);
        pack(at + 3 * 4096);
        if (at != 0) {
            write(at, 4096, 2);
            write(at + 2 * 4096, 4096, 3);
        }
    }
    ASSERT_TRUE(loop_->run(node_->discard(3 * table, 64 * 4096)).ok());
    ASSERT_TRUE(loop_->run(node_->write_zeroes(3 * table, 64 * 4096, {.may_unmap = true})).ok());
    std::ranges::fill(std::span(model_).subspan(3 * table, 64 * 4096), std::byte{0});
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    EXPECT_GT(compact().moved, 0U);
    expect_whole();
}

// As QEMU leaves it: a cluster with data in one disk, kept for zeros in another.
TEST_F(Compacting, APlaceKeptForZerosMovesWithItsOtherOwner) {
    make({{"cluster_size", "4096"}});
    write(0, kPiece, 1);
    write(kPiece, kPiece, 2);
    ASSERT_TRUE(loop_->run(node_->write_zeroes(0, kPiece, {.may_unmap = true})).ok());
    std::ranges::fill(std::span(model_).first(kPiece), std::byte{0});
    ASSERT_TRUE(loop_->run(node_->create_snapshot(SnapshotInfo{})).ok());
    write(2 * kPiece, 4096, 3);  // its own L2 table
    close();
    {
        std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
        const auto word = [&](std::uint64_t at) {
            Be64 wire;
            file.seekg(static_cast<std::streamoff>(at));
            file.read(reinterpret_cast<char*>(&wire), sizeof wire);
            return wire.value() & 0x00FFFFFFFFFFFE00ULL;
        };
        const std::uint64_t l2 = word(word(word(64)));
        for (std::uint64_t at = l2 + kPiece / 4096 * 8; at < l2 + kPiece / 4096 * 16; at += 8) {
            const Be64 zero = word(at) | 1;
            file.seekp(static_cast<std::streamoff>(at));
            file.write(reinterpret_cast<const char*>(&zero), sizeof zero);
        }
    }
    open();
    EXPECT_GT(compact().moved, 0U);
    expect_whole();
}

// What was decompressed before is not what lies there now.
TEST_F(Compacting, WhatIsReadBehindItIsReadAnew) {
    make({{"cluster_size", "4096"}});
    std::mt19937 random(1);
    const auto shows = [&](std::uint64_t at) {
        std::vector<std::byte> got(512);
        ASSERT_TRUE(loop_->run(node_->read(at, Buffers(std::span(got)))).ok());
        EXPECT_TRUE(std::ranges::equal(got, std::span(model_).subspan(at, got.size())));
    };
    for (const std::uint64_t at : {0, 2 * 4096}) {
        const auto part = std::span(model_).subspan(at, 4096);
        std::ranges::generate(part.first(2500), [&] { return static_cast<std::byte>(random()); });
        ASSERT_TRUE(loop_->run(node_->write_compressed(at, Buffers::of(part))).ok());
        shows(at);
        write(at + 4096, 4096, 2);
    }
    ASSERT_TRUE(loop_->run(node_->write_zeroes(0, 2 * 4096, {.may_unmap = true})).ok());
    std::ranges::fill(std::span(model_).first(2 * 4096), std::byte{0});
    compact();
    shows(2 * 4096);
    expect_whole();
}

// Opened without what lies below, an image is not changed in what it shows with that.
TEST_F(Compacting, WithoutWhatLiesBelowZerosStay) {
    make({{"cluster_size", "4096"}});
    fill();
    close();
    std::filesystem::rename(path(), folder_ + "/base");
    make({{"cluster_size", "4096"}, {"backing_file", folder_ + "/base"}, {"backing_fmt", "qcow2"}});
    blank();
    close();
    apart_ = true;
    open();
    EXPECT_GT(compact().zeroes, 0U);
    close();
    apart_ = false;
    open();
    expect_whole();
}

TEST_F(Compacting, WithoutItsDataFileAnImageIsNotWritten) {
    make({{"cluster_size", "4096"}, {"data_file", folder_ + "/data"}});
    fill();
    close();
    apart_ = true;
    open();
    JobControl control;
    EXPECT_FALSE(loop_->run(compact_image(node_, control)).ok());
    const std::vector<std::byte> bytes(4096);
    EXPECT_FALSE(loop_->run(node_->write(0, Buffers::of(bytes))).ok());
    EXPECT_FALSE(loop_->run(node_->write_zeroes(0, 4096, {})).ok());
    EXPECT_FALSE(loop_->run(node_->discard(0, 4096)).ok());
    EXPECT_FALSE(loop_->run(node_->resize(2 * kSize, Preallocation::Off)).ok());
    EXPECT_FALSE(loop_->run(node_->make_empty()).ok());
    close();
    apart_ = false;
    open();
    EXPECT_EQ(node_->size(), kSize);
    expect_whole();
}

TEST_F(Compacting, OtherFormatsGiveHolesBack) {
    make({}, "raw");
    fill();
    blank();
    ASSERT_TRUE(loop_->run(node_->flush()).ok());
    const auto before = loop_->run(node_->allocated_bytes());
    EXPECT_GT(compact().zeroes, kSize / 2);
    expect_content(model_);
    const auto after = loop_->run(node_->allocated_bytes());
    ASSERT_TRUE(before.ok() && after.ok());
    EXPECT_LE(*after, *before);
    EXPECT_EQ(length(), kSize);
}

}  // namespace
}  // namespace strata::block
