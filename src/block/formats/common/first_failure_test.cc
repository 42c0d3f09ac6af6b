// Streams of which a write failed: nothing completes them, and nobody is told that they are whole.
#include "block/formats/common/first_failure.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "block/filters/fault/fault.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 4U << 20, kBlock = 1U << 20;

struct Kind {
    std::string name, format;
    OptionList options;
};

class BrokenStream : public testing::TestWithParam<Kind> {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "streamXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .workers = 1})).value();
        CreateRequest request{path(), kSize, GetParam().options};
        ASSERT_TRUE(loop_->run(create_image(*loop_, GetParam().format, std::move(request))).ok());
        content_.resize(kBlock);
        std::mt19937 random(1);
        for (std::byte& each : content_) {
            each = static_cast<std::byte>(random());  // does not get smaller
        }
    }
    void TearDown() override {
        stream_.reset();
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] std::string path() const { return folder_ + "/image"; }
    /// Opens the stream over a file of which the next request of `kind` fails once fail() was
    /// called.
    void open(const std::string& kind, const std::string& effect = "error") {
        OpenOptions options;
        options.path = path();
        options.tree = NodeTree({{"driver", GetParam().format},
                                 {"file.driver", "fault"},
                                 {"file.file.driver", "file"},
                                 {"file.file.filename", path()},
                                 {"file.rules.0.iotype", kind},
                                 {"file.rules.0.errno", "ENOSPC"},
                                 {"file.rules.0.effect", effect},
                                 {"file.rules.0.once", "on"}});
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(node.ok()) << node.error().text();
        stream_ = *node;
        ASSERT_TRUE(stream_->traits().whole_clusters);
        faults_ = dynamic_cast<fault::FaultNode*>(stream_->file());
        ASSERT_NE(faults_, nullptr);
        faults_->enable(false);
    }
    void fail() { faults_->enable(true); }
    Result<> write(std::uint64_t block) {
        return loop_->run(stream_->write(block * kBlock, Buffers::of(content_)));
    }
    /// Whatever is tried, the first failure is answered, and no image comes of it.
    void expect_lost() {
        EXPECT_EQ(faults_->injected(), 1U);
        for (const auto& again :
             {write(3), loop_->run(stream_->flush()), loop_->run(stream_->write_compressed(0, {})),
              loop_->run(stream_->close()), loop_->run(stream_->close())}) {
            ASSERT_FALSE(again.ok());
            EXPECT_EQ(again.error().system_errno(), ENOSPC) << again.error().text();
        }
        stream_.reset();
        OpenOptions options;
        options.path = path();
        options.format = GetParam().format;
        options.read_only = true;
        EXPECT_FALSE(loop_->run(open_node(*loop_, std::move(options))).ok());
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
    NodePtr stream_;
    fault::FaultNode* faults_ = nullptr;
    std::vector<std::byte> content_;
};

TEST_P(BrokenStream, OfWhichAWriteFailedGetsNoEnd) {
    open("write");
    ASSERT_TRUE(write(0).ok());
    fail();
    EXPECT_FALSE(write(1).ok());
    expect_lost();
}

TEST_P(BrokenStream, OfWhichAWriteWasTornGetsNoEnd) {
    open("write", "torn");
    ASSERT_TRUE(write(0).ok());
    fail();
    EXPECT_FALSE(write(1).ok());
    expect_lost();
}

TEST_P(BrokenStream, OfWhichAFlushFailedGetsNoEnd) {
    open("flush");
    ASSERT_TRUE(write(0).ok());
    fail();
    EXPECT_FALSE(loop_->run(stream_->flush()).ok());
    expect_lost();
}

TEST_P(BrokenStream, WhoseEndFailsIsNotEndedBySayingSoAgain) {
    open("write");
    ASSERT_TRUE(write(0).ok());
    fail();
    EXPECT_FALSE(loop_->run(stream_->write_compressed(0, {})).ok());
    EXPECT_EQ(faults_->injected(), 1U);
    EXPECT_FALSE(loop_->run(stream_->close()).ok());
    EXPECT_FALSE(loop_->run(stream_->close()).ok());
}

TEST_P(BrokenStream, WhoseClosingFailsIsNotClosedTwice) {
    open("write");
    ASSERT_TRUE(write(0).ok());
    fail();
    EXPECT_FALSE(loop_->run(stream_->close()).ok());
    EXPECT_FALSE(loop_->run(stream_->close()).ok());
}

TEST_P(BrokenStream, IsNoneThatRefusedWhatIsOutOfOrder) {
    open("write");
    ASSERT_TRUE(write(1).ok());
    EXPECT_FALSE(write(0).ok());
    EXPECT_TRUE(write(2).ok());
    EXPECT_TRUE(loop_->run(stream_->close()).ok());
}

INSTANTIATE_TEST_SUITE_P(Formats, BrokenStream,
                         testing::Values(Kind{"Vmdk", "vmdk", {{"subformat", "streamOptimized"}}},
                                         Kind{"Ova", "ova", {}}, Kind{"Xva", "xva", {}}),
                         [](const testing::TestParamInfo<Kind>& each) { return each.param.name; });

}  // namespace
}  // namespace strata::block
