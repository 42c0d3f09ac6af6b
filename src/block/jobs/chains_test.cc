// Commit and flatten, cut short: what was done before counts, and running them again goes on.
#include "block/jobs/chains.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "block/droppable.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 32U << 20;
constexpr std::chrono::milliseconds kAlways{0};

class ChainJobs : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "chainsXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
        make("base", {});
        make("top", {{"backing_file", folder_ + "/base"}, {"backing_fmt", "qcow2"}});
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    void make(const std::string& name, OptionList options) {
        CreateRequest request{folder_ + "/" + name, kSize, std::move(options)};
        const auto made = loop_->run(create_image(*loop_, "qcow2", std::move(request)));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    NodePtr open(const std::string& name) {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = "qcow2";
        options.references = follow_references();
        options.lock = options.lock_backing = false;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok()) << (node.ok() ? "" : node.error().text());
        return node.ok() ? *node : nullptr;
    }
    void fill(const std::string& name) {
        const NodePtr node = open(name);
        std::vector<std::byte> bytes(1U << 20);
        for (std::uint64_t at = 0; at < kSize; at += bytes.size()) {
            std::ranges::fill(bytes, value(name, at));
            ASSERT_TRUE(loop_->run(node->write(at, Buffers::of(bytes))).ok());
        }
        ASSERT_TRUE(loop_->run(node->close()).ok());
    }
    static std::byte value(const std::string& name, std::uint64_t at) {
        return static_cast<std::byte>((at >> 20) % 100 + (name == "top" ? 100 : 1));
    }
    void expect(const std::string& name, const std::string& whose) {
        const NodePtr node = open(name);
        std::vector<std::byte> bytes(1U << 20);
        for (std::uint64_t at = 0; at < kSize; at += bytes.size()) {
            ASSERT_TRUE(loop_->run(node->read(at, Buffers(std::span(bytes)))).ok());
            ASSERT_TRUE(std::ranges::all_of(
                bytes, [&](std::byte each) { return each == value(whose, at); }))
                << name << " at " << at;
        }
    }
    /// Bytes that the image has itself.
    std::uint64_t own(const std::string& name) {
        const NodePtr node = open(name);
        std::uint64_t bytes = 0;
        for (std::uint64_t at = 0; at < kSize;) {
            const auto extent = loop_->run(node->status(at, kSize - at));
            EXPECT_TRUE(extent.ok());
            bytes += extent->kind == Extent::Kind::Data ? extent->length : 0;
            at += extent->length;
        }
        return bytes;
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
};

TEST_F(ChainJobs, ACommitThatWasKilledGoesOn) {
    fill("top");
    const auto commit = [&](bool whole) {
        const NodePtr top = open("top"), target = open("base");
        JobControl* self = nullptr;
        JobControl control([&](std::uint64_t done, std::uint64_t total) {
            if (!whole && done > total / 2) {
                self->cancel();
            }
        });
        self = &control;
        const auto done =
            loop_->run(commit_layers(*top, top->backing(), *target, control, true, kAlways));
        EXPECT_EQ(done.ok(), whole);
        if (whole) {
            EXPECT_TRUE(loop_->run(top->make_empty()).ok());
            EXPECT_TRUE(loop_->run(target->close()).ok());
            EXPECT_TRUE(loop_->run(top->close()).ok());
        }
    };
    commit(false);
    EXPECT_LT(own("top"), kSize * 3 / 4) << "what is safe below was not let go";
    EXPECT_GT(own("top"), 0U);
    expect("top", "top");
    commit(true);
    EXPECT_EQ(own("top"), 0U);
    expect("top", "top");
    expect("base", "top");
}

// What is dropped and not flushed shows still: the next commit would write it over the base's.
TEST_F(ChainJobs, KilledWhileItDropsADataFileLosesNothing) {
    const OptionList below{{"backing_file", folder_ + "/base"}, {"backing_fmt", "qcow2"}};
    make("data", {{"data_file", folder_ + "/bytes"}, below[0], below[1]});
    std::filesystem::rename(folder_ + "/data", folder_ + "/top");
    fill("top");
    const auto commit = [&](bool killed) {
        const NodePtr top = open("top"), target = open("base");
        JobControl control;
        ASSERT_TRUE(
            loop_->run(commit_layers(*top, top->backing(), *target, control, false, kAlways)).ok());
        ASSERT_TRUE(loop_->run(target->close()).ok());
        if (killed) {
            auto* drops = dynamic_cast<Droppable*>(top.get());
            ASSERT_NE(drops, nullptr);
            ASSERT_TRUE(loop_->run(drops->drop(0, kSize)).ok());
            return;
        }
        ASSERT_TRUE(loop_->run(top->make_empty()).ok());
        ASSERT_TRUE(loop_->run(top->close()).ok());
    };
    commit(true);
    expect("top", "top");
    commit(false);
    EXPECT_EQ(own("top"), 0U);
    expect("base", "top");
}

TEST_F(ChainJobs, AFlattenThatWasKilledGoesOn) {
    fill("base");
    const auto flatten = [&](bool whole) {
        const NodePtr top = open("top");
        JobControl* self = nullptr;
        JobControl control([&](std::uint64_t done, std::uint64_t total) {
            if (!whole && done > total / 2) {
                self->cancel();
            }
        });
        self = &control;
        const auto done =
            loop_->run(absorb_difference(*top, top->backing(), nullptr, nullptr, control, kAlways));
        EXPECT_EQ(done.ok(), whole);
        if (whole) {
            EXPECT_TRUE(loop_->run(top->change_backing(nullptr, "", "")).ok());
            EXPECT_TRUE(loop_->run(top->close()).ok());
        }
    };
    flatten(false);
    EXPECT_GT(own("top"), kSize / 4) << "what was done is not there";
    EXPECT_LT(own("top"), kSize);
    expect("top", "base");
    flatten(true);
    EXPECT_EQ(own("top"), kSize);
    std::filesystem::remove(folder_ + "/base");
    expect("top", "base");
}

}  // namespace
}  // namespace strata::block
