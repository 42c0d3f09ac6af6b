// FileNode: space that is set aside ahead of a file's end.
#include "block/protocols/file/file_node.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/aligned_buffer.h"

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

}  // namespace
}  // namespace strata::block
