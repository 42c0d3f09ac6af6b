// Fault injection: rules, states, effects, and blkdebug's forms of them.
#include "block/filters/fault/fault.h"

#include <cerrno>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "block/registry.h"

namespace strata::block::fault {
namespace {

constexpr std::uint64_t kSize = 1 << 20;

class FaultTest : public testing::Test {
  protected:
    void SetUp() override {
        loop_ = Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 1}).value();
        path_ = testing::TempDir() + "fault-" + std::to_string(::getpid());
        CreateRequest request;
        request.path = path_;
        request.size = kSize;
        ASSERT_TRUE(loop_->run(create_image(*loop_, "raw", std::move(request))).ok());
    }
    void TearDown() override {
        node_.reset();
        (void)::unlink(path_.c_str());
    }
    Result<> open(OptionList options) {
        OpenOptions how;
        how.path = path_;
        how.tree = NodeTree(std::move(options));
        auto node = loop_->run(open_node(*loop_, std::move(how)));
        if (!node.ok()) {
            return std::move(node).error();
        }
        node_ = std::move(node).value();
        return ok();
    }
    Result<> open_rules(OptionList options) {
        options.insert(
            options.end(),
            {{"driver", "fault"}, {"file.driver", "raw"}, {"file.file.filename", path_}});
        return open(std::move(options));
    }
    /// The errno of a request; 0 if it succeeds.
    static int number(const Result<>& result) {
        return result.ok() ? 0 : result.error().system_errno();
    }
    int read(std::uint64_t offset, std::size_t length = 512) {
        bytes_.assign(length, std::byte{0xEE});
        return number(loop_->run(node_->read(offset, Buffers(std::span(bytes_)))));
    }
    int write(std::uint64_t offset, std::size_t length = 512) {
        const std::vector<std::byte> bytes(length, std::byte{0x5A});
        return number(loop_->run(node_->write(offset, Buffers::of(bytes))));
    }
    int flush() { return number(loop_->run(node_->flush())); }

    std::string path_;
    std::unique_ptr<Loop> loop_;
    NodePtr node_;
    std::vector<std::byte> bytes_;
};

TEST_F(FaultTest, RuleOfARangeStrikesWhatTouchesIt) {
    ASSERT_TRUE(open_rules({{"rules.0.iotype", "read"},
                            {"rules.0.from", "4k"},
                            {"rules.0.length", "1k"},
                            {"rules.0.errno", "ENOSPC"}})
                    .ok());
    EXPECT_EQ(read(4096 - 512), 0);
    EXPECT_EQ(read(4095, 2), ENOSPC);
    EXPECT_EQ(read(5119, 1), ENOSPC);
    EXPECT_EQ(read(5120), 0);
    EXPECT_EQ(write(4096), 0);
    EXPECT_EQ(flush(), 0);
}

TEST_F(FaultTest, RuleIsUsedUpAfterItsCount) {
    ASSERT_TRUE(open_rules({{"rules.0.iotype", "flush+write"}, {"rules.0.count", "2"}}).ok());
    EXPECT_EQ(flush(), EIO);
    EXPECT_EQ(write(0), EIO);
    EXPECT_EQ(flush(), 0);
    EXPECT_EQ(static_cast<FaultNode&>(*node_).injected(), 2U);
}

TEST_F(FaultTest, LostWriteSucceedsAndLeavesNothing) {
    ASSERT_TRUE(
        open_rules(
            {{"rules.0.effect", "lost"}, {"rules.0.iotype", "write"}, {"rules.0.count", "1"}})
            .ok());
    EXPECT_EQ(write(0), 0);
    EXPECT_EQ(read(0), 0);
    EXPECT_EQ(bytes_[0], std::byte{0});
}

TEST_F(FaultTest, TornWriteLeavesItsFirstSectors) {
    ASSERT_TRUE(open_rules({{"rules.0.effect", "torn"},
                            {"rules.0.iotype", "write"},
                            {"rules.0.errno", "EIO"},
                            {"seed", "3"}})
                    .ok());
    EXPECT_EQ(write(0, 64 * 512), EIO);
    ASSERT_EQ(read(0, 64 * 512), 0);
    const auto kept = std::find(bytes_.begin(), bytes_.end(), std::byte{0}) - bytes_.begin();
    EXPECT_LT(kept, 64 * 512);
    EXPECT_EQ(kept % 512, 0);
    EXPECT_TRUE(std::all_of(bytes_.begin() + kept, bytes_.end(),
                            [](std::byte each) { return each == std::byte{0}; }));
}

TEST_F(FaultTest, RulesAreSwitchedWhileRunning) {
    ASSERT_TRUE(open_rules({{"rules.0.iotype", "read"}, {"enabled", "off"}}).ok());
    auto& fault = static_cast<FaultNode&>(*node_);
    EXPECT_EQ(read(0), 0);
    fault.enable(true);
    EXPECT_EQ(read(0), EIO);
    fault.set_rules({});
    EXPECT_EQ(read(0), 0);
}

TEST_F(FaultTest, RateOfAHalfStrikesAboutHalf) {
    ASSERT_TRUE(open_rules({{"rules.0.iotype", "read"}, {"rules.0.rate", "0.5"}}).ok());
    int failed = 0;
    for (int round = 0; round < 200; ++round) {
        failed += read(0) != 0 ? 1 : 0;
    }
    EXPECT_GT(failed, 60);
    EXPECT_LT(failed, 140);
}

TEST_F(FaultTest, BlkdebugFollowsEventsAndStates) {
    // The first data read switches to state 2, where the next one arms the error.
    ASSERT_TRUE(open({{"driver", "raw"},
                      {"file.driver", "blkdebug"},
                      {"file.image.driver", "file"},
                      {"file.image.filename", path_},
                      {"file.set-state.0.event", "read_aio"},
                      {"file.set-state.0.state", "1"},
                      {"file.set-state.0.new_state", "2"},
                      {"file.inject-error.0.event", "read_aio"},
                      {"file.inject-error.0.state", "2"},
                      {"file.inject-error.0.errno", "28"},
                      {"file.inject-error.0.once", "on"}})
                    .ok());
    EXPECT_EQ(read(0), 0);
    EXPECT_EQ(read(0), ENOSPC);
    EXPECT_EQ(read(0), 0);
}

TEST_F(FaultTest, BlkdebugReadsItsConfigurationFile) {
    const std::string config = path_ + ".conf";
    std::ofstream(config)
        << "# comment\n[inject-error]\nevent = \"write_aio\"\nsector = \"8\"\nerrno = "
           "\"30\"\n\n[set-state]\nevent = \"none\"\nnew_state = \"7\"\n";
    const Result<> opened = open({{"driver", "raw"},
                                  {"file.driver", "blkdebug"},
                                  {"file.config", config},
                                  {"file.image.filename", path_}});
    (void)::unlink(config.c_str());
    ASSERT_TRUE(opened.ok()) << opened.error().text();
    EXPECT_EQ(write(0), 0);
    EXPECT_EQ(write(4096), EROFS);
}

TEST_F(FaultTest, LimitsGiveTheChildAlignedPieces) {
    ASSERT_TRUE(open({{"driver", "blkdebug"},
                      {"align", "4k"},
                      {"max-transfer", "64k"},
                      {"image.driver", "raw"},
                      {"image.file.filename", path_},
                      {"inject-error.0.event", "none"},
                      {"inject-error.0.iotype", "discard"}})
                    .ok());
    EXPECT_EQ(write(1000, 128 * 1024), 0);
    EXPECT_EQ(read(999, 128 * 1024 + 2), 0);
    EXPECT_EQ(bytes_.front(), std::byte{0});
    EXPECT_EQ(bytes_[1], std::byte{0x5A});
    EXPECT_EQ(bytes_[128 * 1024], std::byte{0x5A});
    EXPECT_EQ(bytes_.back(), std::byte{0});
    EXPECT_TRUE(loop_->run(node_->write_zeroes(5000, 100, {})).ok());
    EXPECT_EQ(read(5000, 101), 0);
    EXPECT_EQ(bytes_[99], std::byte{0});
    EXPECT_EQ(bytes_[100], std::byte{0x5A});
    EXPECT_TRUE(loop_->run(node_->discard(1, 100))
                    .ok());  // less than a block: nothing to discard, so nothing to fail
    EXPECT_FALSE(loop_->run(node_->discard(0, 8192)).ok());
}

TEST_F(FaultTest, WrongOptionsAreNamed) {
    EXPECT_FALSE(open_rules({{"rules.0.evnt", "read_aio"}}).ok());
    EXPECT_FALSE(open_rules({{"rules.0.event", "read_it"}}).ok());
    EXPECT_FALSE(open_rules({{"rules.1.event", "read_aio"}}).ok());  // there is no rule 0
    EXPECT_FALSE(open_rules({{"rules.0.rate", "2"}}).ok());
    EXPECT_FALSE(
        open({{"driver", "blkdebug"}, {"image.filename", path_}, {"inject-error.0.errno", "5"}})
            .ok());
    EXPECT_FALSE(open({{"driver", "blkdebug"}, {"align", "3"}, {"image.filename", path_}}).ok());
}

TEST(FaultConfigTest, BrokenTextIsRefused) {
    EXPECT_TRUE(parse_config("", "a").ok());
    EXPECT_FALSE(parse_config("event = \"none\"\n", "a").ok());
    EXPECT_FALSE(parse_config("[inject-error]\nevent = none\n", "a").ok());
    EXPECT_FALSE(parse_config("[other]\n", "a").ok());
    EXPECT_FALSE(parse_config("[set-state]\nstate = \"1\"\n", "a").ok());
}

TEST_F(FaultTest, ImagesMayNotNameConfigurations) {
    OpenOptions how;
    how.named_by_image = true;
    how.tree =
        NodeTree({{"driver", "blkdebug"}, {"config", "/etc/passwd"}, {"image.filename", path_}});
    EXPECT_EQ(loop_->run(open_node(*loop_, std::move(how))).error().kind(),
              ErrorKind::PermissionDenied);
}

TEST_F(FaultTest, NullDiskReadsZerosAndDropsWrites) {
    ASSERT_TRUE(open({{"driver", "null-co"}, {"size", "1M"}, {"read-zeroes", "on"}}).ok());
    EXPECT_EQ(node_->size(), 1U << 20);
    EXPECT_EQ(write(0), 0);
    EXPECT_EQ(read(0), 0);
    EXPECT_EQ(bytes_[0], std::byte{0});
    EXPECT_EQ(loop_->run(node_->status(0, kSize)).value().kind, Extent::Kind::Zero);
}

TEST_F(FaultTest, EndlessTreesAreRefused) {
    OptionList options;
    std::string prefix;
    for (int depth = 0; depth < 100; ++depth) {
        options.emplace_back(prefix + "driver", "fault");
        prefix += "file.";
    }
    EXPECT_FALSE(open(std::move(options)).ok());
}

}  // namespace
}  // namespace strata::block::fault
