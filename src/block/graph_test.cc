// The graph's ground: the file node, raw images, the registry, references.
#include <cerrno>
#include <fstream>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "block/formats/raw/raw.h"
#include "block/protocols/file/file_node.h"
#include "block/registry.h"
#include "block/sync.h"

namespace strata::block {
namespace {

struct Mode {
    IoEngine engine;
    CacheMode cache;
};

class GraphTest : public testing::TestWithParam<Mode> {
  protected:
    void SetUp() override {
        if (GetParam().engine == IoEngine::Uring && !uring_available()) {
            GTEST_SKIP() << "io_uring is not available here";
        }
        auto loop = Loop::create({.engine = GetParam().engine, .depth = 8, .workers = 1});
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(loop).value();
        path_ = testing::TempDir() + "graph-" + std::to_string(::getpid()) + ".raw";
        CreateRequest request;
        request.path = path_;
        request.size = 1 << 20;
        ASSERT_TRUE(loop_->run(create_image(*loop_, "raw", std::move(request))).ok());
    }
    void TearDown() override {
        node_.reset();
        (void)::unlink(path_.c_str());
    }
    Result<> open(std::string format, bool read_only = false) {
        OpenOptions options;
        options.path = path_;
        options.format = std::move(format);
        options.cache = GetParam().cache;
        options.read_only = read_only;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        if (!node.ok()) {
            return std::move(node).error();
        }
        node_ = std::move(node).value();
        return ok();
    }
    Result<> write(std::uint64_t offset, const std::vector<std::byte>& bytes) {
        return loop_->run(node_->write(offset, Buffers::of(bytes)));
    }
    std::vector<std::byte> read(std::uint64_t offset, std::size_t length) {
        std::vector<std::byte> bytes(length, std::byte{0xEE});
        EXPECT_TRUE(loop_->run(node_->read(offset, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    std::string path_;
    std::unique_ptr<Loop> loop_;
    NodePtr node_;
};

std::vector<std::byte> pattern(std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t at = 0; at < size; ++at) {
        bytes[at] = static_cast<std::byte>(at * 7 + 1);
    }
    return bytes;
}

TEST_P(GraphTest, WrittenBytesAreReadBack) {
    ASSERT_TRUE(open("raw").ok());
    const auto bytes = pattern(10000);
    EXPECT_TRUE(write(511, bytes).ok());
    EXPECT_TRUE(loop_->run(node_->flush()).ok());
    EXPECT_EQ(read(511, bytes.size()), bytes);
    EXPECT_TRUE(loop_->run(node_->close()).ok());
}

TEST_P(GraphTest, ZeroedRangeReadsAsZeros) {
    ASSERT_TRUE(open("raw").ok());
    EXPECT_TRUE(write(0, pattern(65536)).ok());
    EXPECT_TRUE(loop_->run(node_->write_zeroes(1000, 5000, {})).ok());
    EXPECT_TRUE(loop_->run(node_->write_zeroes(8192, 16384, {.may_unmap = true})).ok());
    EXPECT_TRUE(is_zero(read(1000, 5000)));
    EXPECT_TRUE(is_zero(read(8192, 16384)));
    EXPECT_EQ(read(999, 1)[0], pattern(1000)[999]);
    EXPECT_EQ(read(6000, 1)[0], pattern(6001)[6000]);
}

TEST_P(GraphTest, RangesBeyondTheEndAreErrors) {
    ASSERT_TRUE(open("raw").ok());
    EXPECT_EQ(write((1 << 20) - 10, pattern(20)).error().system_errno(), EIO);
    EXPECT_EQ(loop_->run(node_->discard(~0ULL - 5, 10)).error().system_errno(), EIO);
}

TEST_P(GraphTest, ReadOnlyImageRefusesWrites) {
    ASSERT_TRUE(open("raw", true).ok());
    EXPECT_EQ(write(0, pattern(20)).error().system_errno(), EROFS);
    EXPECT_EQ(loop_->run(node_->write_zeroes(0, 512, {})).error().system_errno(), EROFS);
}

TEST_P(GraphTest, BareFileGrowsAndReadsZerosPastItsEnd) {
    ASSERT_TRUE(open("file").ok());
    EXPECT_TRUE(is_zero(read(2 << 20, 100)));
    EXPECT_TRUE(write(2 << 20, pattern(100)).ok());
    EXPECT_EQ(node_->size(), (2U << 20) + 100);
    EXPECT_EQ(read(2 << 20, 100), pattern(100));
}

TEST_P(GraphTest, GrowingByZeroesKeepsWritesUnderWay) {
    ASSERT_TRUE(open("file").ok());
    const auto bytes = pattern(65536);
    for (std::uint64_t at = 2 << 20; at < (6 << 20); at += 1 << 20) {
        TaskGroup group(*loop_, 2);
        group.start(node_->write(at + 131072, Buffers::of(bytes)));
        group.start(node_->write_zeroes(at, 65536, {}));
        ASSERT_TRUE(loop_->run(group.finish()).ok());
        EXPECT_EQ(read(at + 131072, bytes.size()), bytes);
    }
}

TEST_P(GraphTest, HolesAreSeen) {
    ASSERT_TRUE(open("raw").ok());
    EXPECT_TRUE(write(65536, pattern(65536)).ok());
    EXPECT_TRUE(loop_->run(node_->flush()).ok());
    auto first =
        loop_->run(node_->status(4096, 1 << 19));  // the first block of a new raw image is there
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(first->kind, Extent::Kind::Zero);
    EXPECT_EQ(first->length, 61440U);
    auto second = loop_->run(node_->status(65536, 1 << 19));
    EXPECT_EQ(second->kind, Extent::Kind::Data);
    EXPECT_EQ(second->length, 65536U);
    EXPECT_EQ(second->file, node_->file());
}

TEST_P(GraphTest, ResizedImageHasItsNewSize) {
    ASSERT_TRUE(open("raw").ok());
    EXPECT_TRUE(loop_->run(node_->resize(3 << 20, Preallocation::Off)).ok());
    EXPECT_TRUE(write((3 << 20) - 512, pattern(512)).ok());
    EXPECT_TRUE(loop_->run(node_->resize(1 << 20, Preallocation::Off)).ok());
    EXPECT_FALSE(write(1 << 20, pattern(512)).ok());
}

TEST_P(GraphTest, FilesAreCopiedWithinTheHost) {
    ASSERT_TRUE(open("raw").ok());
    EXPECT_TRUE(write(0, pattern(65536)).ok());
    auto copied = loop_->run(node_->copy_from(*node_->file(), 0, 1 << 19, 65536));
    if (!copied.ok()) {
        EXPECT_EQ(copied.error().kind(), ErrorKind::NotSupported);
        GTEST_SKIP() << copied.error().text();
    }
    EXPECT_EQ(read(1 << 19, 65536), pattern(65536));
}

TEST_P(GraphTest, SecondWriterIsRefused) {
    ASSERT_TRUE(open("raw").ok());
    OpenOptions options;
    options.path = path_;
    EXPECT_EQ(loop_->run(open_node(*loop_, std::move(options))).error().kind(),
              ErrorKind::WrongState);
}

TEST_P(GraphTest, UnknownFormatAndOptionAreNamed) {
    EXPECT_NE(open("zip").error().text().find("zip"), std::string::npos);
    CreateRequest request;
    request.path = path_;
    request.options = {{"colour", "red"}};
    EXPECT_NE(loop_->run(create_image(*loop_, "raw", std::move(request)))
                  .error()
                  .text()
                  .find("preallocation"),
              std::string::npos);
}

TEST_P(GraphTest, ReferencesNeedAPolicy) {
    OpenOptions parent;
    parent.path = path_;
    Reference reference{
        .kind = Reference::Kind::Backing, .name = path_, .format = "raw", .referrer = {}};
    EXPECT_EQ(loop_->run(open_reference(*loop_, parent, reference)).error().kind(),
              ErrorKind::PermissionDenied);
    parent.references = follow_references();
    EXPECT_TRUE(loop_->run(open_reference(*loop_, parent, reference)).ok());
    reference.name = "json:{}";
    EXPECT_EQ(loop_->run(open_reference(*loop_, parent, reference)).error().kind(),
              ErrorKind::NotSupported);
}

INSTANTIATE_TEST_SUITE_P(Modes, GraphTest,
                         testing::Values(Mode{IoEngine::Uring, CacheMode::Writeback},
                                         Mode{IoEngine::Threads, CacheMode::Writeback},
                                         Mode{IoEngine::Auto, CacheMode::Writethrough},
                                         Mode{IoEngine::Auto, CacheMode::None},
                                         Mode{IoEngine::Threads, CacheMode::Unsafe}));

}  // namespace
}  // namespace strata::block
