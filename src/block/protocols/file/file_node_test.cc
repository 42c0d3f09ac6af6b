// FileNode: space that is set aside ahead of a file's end; layers in the host's cache.
#include "block/protocols/file/file_node.h"

#include <algorithm>
#include <array>
#include <fstream>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "block/aligned_buffer.h"
#include "block/protocols/file/cachestat.h"

namespace strata::block {
namespace {

class GrowAheadTest : public testing::Test {
  protected:
    void SetUp() override {
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .depth = 4, .workers = 1}))
                    .value();
        path_ = testing::TempDir() + "ahead-" + std::to_string(::getpid());
        ASSERT_TRUE(FileNode::create(*loop_, path_, 0).ok());
        OpenOptions options;
        options.path = path_;
        options.cache = CacheMode::None;
        auto node = FileNode::open(*loop_, options);
        if (!node.ok()) {
            GTEST_SKIP() << node.error().text();  // a file system without O_DIRECT
        }
        node_ = std::move(node).value();
        node_->grow_ahead();
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    void write(std::uint64_t offset, std::size_t length) {
        const AlignedBuffer bytes(length);
        bytes.view().fill(std::byte{1});
        ASSERT_TRUE(loop_->run(node_->write(offset, bytes.view())).ok());
    }
    [[nodiscard]] std::uint64_t length() const {
        struct stat status {};
        EXPECT_EQ(::stat(path_.c_str(), &status), 0);
        return static_cast<std::uint64_t>(status.st_size);
    }
    std::unique_ptr<Loop> loop_;
    std::shared_ptr<FileNode> node_;
    std::string path_;
};

TEST_F(GrowAheadTest, TheFileIsLongerThanItsContentUntilItIsClosed) {
    for (std::uint64_t at = 0; at < (4U << 20); at += 256U << 10) {
        write(at, 4096);
    }
    const std::uint64_t end = (4U << 20) - (256U << 10) + 4096;
    EXPECT_EQ(node_->size(), end);
    EXPECT_GT(length(), end);
    std::vector<std::byte> behind(8192, std::byte{1});
    ASSERT_TRUE(loop_->run(node_->read(end, Buffers(std::span(behind)))).ok());
    EXPECT_TRUE(is_zero(behind));
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    EXPECT_EQ(length(), end);
}

TEST_F(GrowAheadTest, SmallFilesAreLeftAlone) {
    write(0, 65536);
    write(65536, 65536);
    EXPECT_EQ(length(), 131072U);
}

TEST_F(GrowAheadTest, SizesChangeAsTheyDoWithoutIt) {
    write(0, 4096);
    write(2U << 20, 4096);
    ASSERT_GT(length(), (2U << 20) + 4096U);
    ASSERT_TRUE(loop_->run(node_->resize((2U << 20) + 8192, Preallocation::Off)).ok());
    EXPECT_EQ(node_->size(), (2U << 20) + 8192U);
    ASSERT_TRUE(loop_->run(node_->write_zeroes((2U << 20) + 8192, 4096, {})).ok());
    EXPECT_EQ(node_->size(), (2U << 20) + 12288U);
    ASSERT_TRUE(loop_->run(node_->resize(1U << 20, Preallocation::Off)).ok());
    EXPECT_EQ(length(), 1U << 20);
    write(3U << 20, 4096);
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    EXPECT_EQ(length(), (3U << 20) + 4096U);
}

/// A file of 1 MiB, read past the host's cache, as a disk's own image or as a layer below one.
class LayerTest : public testing::Test {
  protected:
    static constexpr std::size_t kSize = 1U << 20;
    void SetUp() override {
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .depth = 4, .workers = 1}))
                    .value();
        path_ = testing::TempDir() + "layer-" + std::to_string(::getpid());
        auto made = FileNode::create(*loop_, path_, 0);
        ASSERT_TRUE(made.ok());
        const AlignedBuffer bytes(kSize);
        bytes.view().fill(std::byte{7});
        ASSERT_TRUE(loop_->run((*made)->write(0, bytes.view())).ok());
        ASSERT_TRUE(loop_->run((*made)->flush()).ok());
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    static std::uint64_t fetched() {
        std::ifstream told("/proc/self/io");
        std::string name;
        std::uint64_t value = 0;
        while (told >> name >> value) {
            if (name == "read_bytes:") {
                return value;
            }
        }
        return 0;
    }
    /// Bytes that came from the disk for a read of all, which must show what the file has.
    std::uint64_t read(bool layer) {
        OpenOptions options;
        options.path = path_;
        options.cache = CacheMode::None;
        options.read_only = true;
        if (layer) {
            options.above.emplace_back(0, 0);
        }
        auto node = FileNode::open(*loop_, options);
        if (!node.ok()) {
            return 0;
        }
        const AlignedBuffer bytes(kSize);
        const std::uint64_t before = fetched();
        for (std::size_t at = 0; at < kSize; at += kSize / 4) {
            EXPECT_TRUE(loop_->run((*node)->read(at, bytes.view().slice(at, kSize / 4))).ok());
        }
        EXPECT_TRUE(std::all_of(bytes.bytes().begin(), bytes.bytes().end(),
                                [](std::byte each) { return each == std::byte{7}; }));
        return fetched() - before;
    }
    std::unique_ptr<Loop> loop_;
    std::string path_;
};

TEST_F(LayerTest, IsReadFromTheHostsCacheWhereThatHasIt) {
    const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    const auto cached = [&] { return cached_pages(fd.get(), 0, kSize).value_or(0); };
    if (cached() != kSize / 4096 || read(false) < kSize) {
        GTEST_SKIP() << "no cachestat(2), no direct reads, or not counted";
    }
    EXPECT_EQ(read(true), 0U);
    // Where a page is missing the whole read goes past the cache, and leaves it as it was.
    ASSERT_EQ(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    ASSERT_EQ(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM), 0);
    std::byte first{};
    ASSERT_EQ(::pread(fd.get(), &first, 1, 0), 1);
    const std::uint64_t left = cached();
    ASSERT_LT(left, kSize / 4096 / 4);
    EXPECT_GE(read(true), kSize);
    EXPECT_EQ(cached(), left);
}

TEST_F(LayerTest, OfWritesInBulkOnlySmallOnesStayInTheHostsCache) {
    const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    const auto cached_after = [&](CacheMode cache, bool bulk, std::size_t length) {
        OpenOptions options;
        options.path = path_;
        options.cache = cache;
        auto node = FileNode::open(*loop_, options);
        if (!node.ok() || ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) {
            return std::uint64_t{kSize};
        }
        if (bulk) {
            (*node)->write_in_bulk();
        }
        const AlignedBuffer bytes(length);
        bytes.view().fill(std::byte{9});
        EXPECT_TRUE(loop_->run((*node)->write(0, bytes.view())).ok());
        const std::uint64_t pages = cached_pages(fd.get(), 0, kSize).value_or(kSize);
        EXPECT_TRUE(loop_->run((*node)->flush()).ok());
        std::byte last{};
        EXPECT_EQ(::pread(fd.get(), &last, 1, static_cast<off_t>(length - 1)), 1);
        EXPECT_EQ(last, std::byte{9});
        return pages;
    };
    if (cached_after(CacheMode::None, false, kSize) != 0) {
        GTEST_SKIP() << "no cachestat(2), or no direct writes";
    }
    EXPECT_EQ(cached_after(CacheMode::Writeback, true, kSize), 0U);
    EXPECT_EQ(cached_after(CacheMode::Writeback, true, kSize - 512), kSize / 4096);
    EXPECT_EQ(cached_after(CacheMode::Writeback, true, 8192), 2U);
    EXPECT_EQ(cached_after(CacheMode::Unsafe, true, kSize), kSize / 4096);
}

}  // namespace
}  // namespace strata::block
