// The filters that are no faults: throttling, copy on read, traces, quorums.
#include <cerrno>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "block/filters/throttle/throttle.h"
#include "block/registry.h"
#include "block/sync.h"

namespace strata::block {
namespace {

using std::chrono::milliseconds;
using throttle::Kind;
using throttle::Limits;
using throttle::ThrottleGroup;

constexpr std::uint64_t kSize = 1 << 20;

class FiltersTest : public testing::Test {
  protected:
    void SetUp() override {
        loop_ = Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 1}).value();
        base_ = testing::TempDir() + "filters-" + std::to_string(::getpid());
        ASSERT_TRUE(loop_->run(create_image(*loop_, "raw", {base_, kSize, {}})).ok());
    }
    void TearDown() override {
        node_.reset();
        for (const char* ending : {"", ".top", ".copy", ".trace"}) {
            (void)::unlink((base_ + ending).c_str());
        }
    }
    Result<> open(OptionList options) {
        OpenOptions how;
        how.tree = NodeTree(std::move(options));
        how.references = follow_references();
        auto node = loop_->run(open_node(*loop_, std::move(how)));
        if (!node.ok()) {
            return std::move(node).error();
        }
        node_ = std::move(node).value();
        return ok();
    }
    Result<> write(Node& node, std::uint64_t offset, std::size_t length, std::byte value) {
        const std::vector<std::byte> bytes(length, value);
        return loop_->run(node.write(offset, Buffers::of(bytes)));
    }
    std::vector<std::byte> read(std::uint64_t offset, std::size_t length) {
        std::vector<std::byte> bytes(length, std::byte{0xEE});
        const Result<> done = loop_->run(node_->read(offset, Buffers(std::span(bytes))));
        EXPECT_TRUE(done.ok()) << done.error().text();
        return bytes;
    }
    std::string base_;
    std::unique_ptr<Loop> loop_;
    NodePtr node_;
};

Task<> nap(Loop& loop) {
    co_await loop.sleep(milliseconds(5));
    co_return ok();
}

Limits limit(Kind kind, std::uint64_t average, std::uint64_t burst = 0, std::uint64_t seconds = 1) {
    Limits limits;
    limits.of.at(static_cast<std::size_t>(kind)) = {average, burst, seconds};
    return limits;
}

TEST(ThrottleGroupTest, RequestsBeyondATenthOfASecondWait) {
    ThrottleGroup group(limit(Kind::RequestsTotal, 100));
    const auto start = ThrottleGroup::Clock::now();
    for (int request = 0; request <= 10; ++request) {
        EXPECT_EQ(group.admit(false, 4096, start), start) << request;
    }
    EXPECT_EQ(group.admit(true, 4096, start) - start, milliseconds(10));
    EXPECT_EQ(group.admit(true, 4096, start) - start, milliseconds(20));
    EXPECT_EQ(group.admit(true, 4096, start + milliseconds(130)), start + milliseconds(130));
}

TEST(ThrottleGroupTest, ReadsDoNotPayForWrites) {
    ThrottleGroup group(limit(Kind::BytesWrite, 1000));
    const auto start = ThrottleGroup::Clock::now();
    EXPECT_EQ(group.admit(true, 1100, start), start);
    EXPECT_EQ(group.admit(false, 1 << 30, start), start);
    EXPECT_EQ(group.admit(true, 1, start) - start, std::chrono::seconds(1));
}

TEST(ThrottleGroupTest, BurstLastsItsLengthAtItsOwnRate) {
    // 10 a second; 100 a second for 2 seconds.
    ThrottleGroup group(limit(Kind::RequestsTotal, 10, 100, 2));
    auto now = ThrottleGroup::Clock::now();
    const auto start = now;
    for (int request = 0; request < 300; ++request) {
        now = std::max(now, group.admit(false, 512, now));
    }
    const double seconds = std::chrono::duration<double>(now - start).count();
    EXPECT_GT(seconds, 8.0);  // some 220 in the burst's 2 seconds, the others at 10 a second
    EXPECT_LT(seconds, 11.0);
}

TEST(ThrottleGroupTest, LongRequestsCountAsSeveral) {
    Limits limits = limit(Kind::RequestsTotal, 100);
    limits.request_size = 4096;
    ThrottleGroup group(limits);
    const auto start = ThrottleGroup::Clock::now();
    EXPECT_EQ(group.admit(false, 4096 * 20, start), start);
    EXPECT_EQ(group.admit(false, 512, start) - start, milliseconds(100));
}

TEST(ThrottleGroupTest, LimitsThatContradictAreRefused) {
    Limits both = limit(Kind::RequestsTotal, 100);
    both.of[4].average = 5;
    EXPECT_FALSE(both.check().ok());
    EXPECT_FALSE(limit(Kind::BytesTotal, 100, 50).check().ok());
    EXPECT_FALSE(limit(Kind::BytesTotal, 0, 50).check().ok());
    EXPECT_FALSE(limit(Kind::BytesTotal, 100, 0, 5).check().ok());
    EXPECT_FALSE(limit(Kind::BytesTotal, 100, 200, 0).check().ok());
    EXPECT_TRUE(limit(Kind::BytesTotal, 100, 200, 5).check().ok());
}

TEST_F(FiltersTest, DisksOfAGroupShareItsLimits) {
    ASSERT_TRUE(open({{"driver", "throttle"},
                      {"group", "shared"},
                      {"iops", "20"},
                      {"file.driver", "null-co"}})
                    .ok());
    NodePtr first = std::exchange(node_, nullptr);
    ASSERT_TRUE(
        open({{"driver", "throttle"}, {"throttle-group", "shared"}, {"file.driver", "null-co"}})
            .ok());
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; round < 3; ++round) {
        EXPECT_TRUE(write(*first, 0, 512, std::byte{1}).ok());
        EXPECT_TRUE(write(*node_, 0, 512, std::byte{1}).ok());
    }
    EXPECT_GE(std::chrono::steady_clock::now() - start,
              milliseconds(100));  // three of the six go at once
    first.reset();
    node_.reset();
    EXPECT_EQ(ThrottleGroup::find("shared"), nullptr);
}

TEST_F(FiltersTest, NewLimitsFreeThoseWhoWait) {
    ASSERT_TRUE(open({{"driver", "throttle"}, {"bps", "1k"}, {"file.driver", "null-co"}}).ok());
    auto& node = static_cast<throttle::ThrottleNode&>(*node_);
    EXPECT_TRUE(write(*node_, 0, 1 << 20, std::byte{1}).ok());
    bool ended = false;
    std::vector<std::byte> bytes(512);
    const auto start = std::chrono::steady_clock::now();
    loop_->spawn(node_->read(0, Buffers(std::span(bytes))), [&](const Result<>&) { ended = true; });
    node.group().set_limits(Limits{});
    while (!ended && std::chrono::steady_clock::now() - start < std::chrono::seconds(10)) {
        (void)loop_->run(nap(*loop_));
    }
    EXPECT_TRUE(ended);
}

TEST_F(FiltersTest, CopyOnReadBringsWholeClustersUp) {
    ASSERT_TRUE(open({{"driver", "raw"}, {"file.filename", base_}}).ok());
    ASSERT_TRUE(write(*node_, 100'000, 100'000, std::byte{7}).ok());
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    node_.reset();
    ASSERT_TRUE(loop_
                    ->run(create_image(
                        *loop_, "qcow2",
                        {base_ + ".top", kSize, {{"backing_file", base_}, {"backing_fmt", "raw"}}}))
                    .ok());
    ASSERT_TRUE(open({{"driver", "copy-on-read"},
                      {"file.driver", "qcow2"},
                      {"file.file.filename", base_ + ".top"}})
                    .ok());
    EXPECT_EQ(read(150'000, 10), std::vector<std::byte>(10, std::byte{7}));
    const Extent copied = loop_->run(node_->status(131'072, 65'536)).value();
    EXPECT_EQ(copied.kind, Extent::Kind::Data);
    EXPECT_EQ(copied.length, 65'536U);
    EXPECT_EQ(loop_->run(node_->status(65'536, 65'536)).value().kind, Extent::Kind::Unallocated);
    EXPECT_EQ(read(800'000, 10), std::vector<std::byte>(10, std::byte{0}));
    EXPECT_EQ(loop_->run(node_->status(786'432, 65'536)).value().kind,
              Extent::Kind::Unallocated);  // a hole below stays one
    EXPECT_EQ(read(0, kSize).at(199'999), std::byte{7});
    ASSERT_TRUE(write(*node_, 150'000, 5, std::byte{8}).ok());
    EXPECT_EQ(read(149'999, 7).at(1), std::byte{8});
    EXPECT_TRUE(loop_->run(node_->close()).ok());
}

TEST_F(FiltersTest, TraceHasALineForEachRequest) {
    ASSERT_TRUE(open({{"driver", "trace"},
                      {"to", base_ + ".trace"},
                      {"file.driver", "raw"},
                      {"file.file.filename", base_}})
                    .ok());
    ASSERT_TRUE(write(*node_, 4096, 512, std::byte{1}).ok());
    EXPECT_FALSE(write(*node_, kSize, 512, std::byte{1}).ok());
    (void)read(0, 1024);
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    std::stringstream text;
    text << std::ifstream(base_ + ".trace").rdbuf();
    EXPECT_NE(text.str().find(" write offset=4096 length=512 us="), std::string::npos)
        << text.str();
    EXPECT_NE(text.str().find(" read offset=0 length=1024 us="), std::string::npos);
    EXPECT_NE(text.str().find("result=5\n"), std::string::npos);
}

TEST_F(FiltersTest, ImagesMayNotAskForTraces) {
    OpenOptions how;
    how.named_by_image = true;
    how.tree = NodeTree({{"driver", "trace"}, {"to", base_ + ".trace"}, {"file.filename", base_}});
    EXPECT_EQ(loop_->run(open_node(*loop_, std::move(how))).error().kind(),
              ErrorKind::PermissionDenied);
    EXPECT_NE(::access((base_ + ".trace").c_str(), F_OK), 0);
}

TEST_F(FiltersTest, QuorumAnswersWithTheMajority) {
    ASSERT_TRUE(loop_->run(create_image(*loop_, "raw", {base_ + ".copy", kSize, {}})).ok());
    ASSERT_TRUE(loop_->run(create_image(*loop_, "raw", {base_ + ".top", kSize, {}})).ok());
    const OptionList copies = {{"driver", "quorum"},
                               {"vote-threshold", "2"},
                               {"children.0.filename", base_},
                               {"children.1.filename", base_ + ".copy"},
                               {"children.2.filename", base_ + ".top"}};
    ASSERT_TRUE(open(copies).ok());
    ASSERT_TRUE(write(*node_, 0, 512, std::byte{5}).ok());
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    node_.reset();
    ASSERT_TRUE(open({{"driver", "raw"}, {"file.filename", base_ + ".copy"}}).ok());
    ASSERT_TRUE(write(*node_, 0, 512, std::byte{6}).ok());
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    node_.reset();
    ASSERT_TRUE(open(copies).ok());
    EXPECT_EQ(read(0, 512), std::vector<std::byte>(512, std::byte{5}));
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    node_.reset();
    ASSERT_TRUE(open({{"driver", "raw"}, {"file.filename", base_ + ".top"}}).ok());
    ASSERT_TRUE(write(*node_, 0, 512, std::byte{4}).ok());
    ASSERT_TRUE(loop_->run(node_->close()).ok());
    node_.reset();
    ASSERT_TRUE(open(copies).ok());
    std::vector<std::byte> bytes(512);
    EXPECT_EQ(loop_->run(node_->read(0, Buffers(std::span(bytes)))).error().system_errno(), EIO);
}

}  // namespace
}  // namespace strata::block
