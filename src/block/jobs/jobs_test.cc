// Jobs over raw images: copies, comparisons, differences; runs of zeros.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "block/aligned_buffer.h"
#include "block/jobs/bench.h"
#include "block/jobs/chains.h"
#include "block/jobs/compare.h"
#include "block/jobs/copy.h"
#include "block/jobs/direct_compare.h"
#include "block/jobs/direct_unpack.h"
#include "block/jobs/extents.h"
#include "block/jobs/progress_signal.h"
#include "block/jobs/zero_runs.h"
#include "block/loop.h"
#include "block/protocols/file/cachestat.h"
#include "block/protocols/file/file_node.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 8U << 20;

std::vector<std::byte> filled(std::size_t size, unsigned seed) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) {
        bytes[i] = static_cast<std::byte>((i * 31 + seed) % 251 + 1);
    }
    return bytes;
}

class Jobs : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "strata-jobs-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        auto loop = Loop::create({.engine = IoEngine::Threads});
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(loop).value();
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    NodePtr make(const std::string& name, std::uint64_t size) {
        const std::string path = folder_ + "/" + name;
        std::ofstream(path).close();
        std::filesystem::resize_file(path, size);
        OpenOptions options;
        options.path = path;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok());
        return node.ok() ? node.value() : nullptr;
    }
    void write(Node& node, std::uint64_t offset, const std::vector<std::byte>& bytes) {
        EXPECT_TRUE(loop_->run(node.write(offset, Buffers::of(bytes))).ok());
    }
    std::vector<std::byte> read(Node& node, std::uint64_t offset, std::size_t size) {
        std::vector<std::byte> bytes(size);
        EXPECT_TRUE(loop_->run(node.read(offset, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    Comparison compare(Node& first, Node& second, bool strict = false) {
        JobControl control;
        auto result = loop_->run(compare_images(first, second, strict, control));
        EXPECT_TRUE(result.ok());
        return result.ok() ? result.value() : Comparison{};
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
};

TEST(ZeroRuns, ShortZerosAreData) {
    std::vector<std::byte> bytes(16384);
    std::fill_n(bytes.begin() + 4096, 512, std::byte{1});
    std::fill_n(bytes.begin() + 5120, 512, std::byte{1});
    ZeroRuns runs(bytes, 0, 4096, 512);
    auto run = runs.next();
    ASSERT_TRUE(run);
    EXPECT_TRUE(run->zero);
    EXPECT_EQ(run->length, 4096U);
    run = runs.next();
    ASSERT_TRUE(run);
    EXPECT_FALSE(run->zero);
    EXPECT_EQ(run->offset, 4096U);
    EXPECT_EQ(run->length, 1536U);  // with the 512 zeros between
    run = runs.next();
    ASSERT_TRUE(run);
    EXPECT_TRUE(run->zero);
    EXPECT_EQ(run->offset + run->length, bytes.size());
    EXPECT_FALSE(runs.next());
}

TEST_F(Jobs, ACopyIsTheSameAndKeepsHoles) {
    const NodePtr source = make("source", kSize);
    const NodePtr target = make("target", kSize);
    write(*source, 1U << 20, filled(3000000, 7));
    write(*source, kSize - 512, filled(512, 9));
    JobControl control;
    for (const bool in_order : {true, false}) {
        CopyOptions options;
        options.target_zero = true;
        options.in_order = in_order;
        ASSERT_TRUE(loop_->run(copy_image({source.get()}, *target, options, control)).ok());
        EXPECT_EQ(compare(*source, *target).verdict, Comparison::Verdict::Same);
    }
    EXPECT_LT(loop_->run(target->allocated_bytes()).value(), 4U << 20);
}

TEST_F(Jobs, SourcesStandOneBehindTheOther) {
    const NodePtr first = make("first", 1U << 20);
    const NodePtr empty = make("empty", 0);
    const NodePtr second = make("second", 3U << 20);
    const NodePtr target = make("target", 4U << 20);
    write(*first, 4096, filled(8192, 1));
    write(*second, 0, filled(100000, 2));
    JobControl control;
    CopyOptions options;
    options.target_zero = true;
    ASSERT_TRUE(
        loop_->run(copy_image({first.get(), empty.get(), second.get()}, *target, options, control))
            .ok());
    EXPECT_EQ(read(*target, 4096, 8192), filled(8192, 1));
    EXPECT_EQ(read(*target, 1U << 20, 100000), filled(100000, 2));
}

TEST_F(Jobs, ACopyOverOldContentClearsIt) {
    const NodePtr source = make("source", kSize);
    const NodePtr target = make("target", kSize);
    write(*target, 0, filled(kSize, 3));
    JobControl control;
    ASSERT_TRUE(loop_->run(copy_image({source.get()}, *target, {}, control)).ok());
    EXPECT_EQ(compare(*source, *target).verdict, Comparison::Verdict::Same);
}

TEST_F(Jobs, ComparisonsTellTheFirstDifference) {
    const NodePtr first = make("first", kSize);
    const NodePtr second = make("second", kSize + 4096);
    write(*first, 5U << 20, filled(4096, 1));
    write(*second, 5U << 20, filled(4096, 1));
    Comparison result = compare(*first, *second);
    EXPECT_EQ(result.verdict, Comparison::Verdict::Same);
    EXPECT_TRUE(result.sizes_differ);
    EXPECT_EQ(compare(*first, *second, true).verdict, Comparison::Verdict::Size);
    write(*second, (5U << 20) + 1000, filled(8, 200));
    write(*second, (6U << 20), filled(8, 200));
    result = compare(*first, *second);
    EXPECT_EQ(result.verdict, Comparison::Verdict::Content);
    EXPECT_EQ(result.offset, (5U << 20) + 512);
}

TEST_F(Jobs, MapsMergeNeighbours) {
    const NodePtr node = make("node", kSize);
    write(*node, 1U << 20, filled(1U << 20, 1));
    write(*node, 2U << 20, filled(1U << 20, 1));
    std::vector<MapEntry> entries;
    ASSERT_TRUE(loop_
                    ->run(map_image(*node, 0, kSize,
                                    [&](const MapEntry& entry) { entries.push_back(entry); }))
                    .ok());
    ASSERT_EQ(entries.size(), 3U);
    EXPECT_EQ(entries[1].start, 1U << 20);
    EXPECT_EQ(entries[1].length, 2U << 20);
    EXPECT_TRUE(entries[1].data);
    EXPECT_TRUE(entries[2].zero);
}

TEST_F(Jobs, ZerosLastWhenALayerComesBelow) {
    const NodePtr base = make("base", kSize);
    write(*base, 0, filled(kSize, 5));
    for (const char* compat : {"0.10", "1.1"}) {
        const std::string path = folder_ + "/overlay";
        ASSERT_TRUE(
            loop_->run(create_image(*loop_, "qcow2", {path, kSize, {{"compat", compat}}})).ok());
        OpenOptions options;
        options.path = path;
        options.format = "qcow2";
        options.references = follow_references();
        auto overlay = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(overlay.ok());
        write(**overlay, 1000, filled(100, 1));
        JobControl control;
        ASSERT_TRUE(
            loop_->run(absorb_difference(**overlay, nullptr, base.get(), nullptr, control)).ok());
        ASSERT_TRUE(loop_->run((*overlay)->change_backing(base, base->name(), "raw")).ok());
        EXPECT_EQ(read(**overlay, 1000, 100), filled(100, 1));
        EXPECT_EQ(read(**overlay, 4096, 4096), std::vector<std::byte>(4096));
        EXPECT_EQ(read(**overlay, kSize / 2, 200000), std::vector<std::byte>(200000)) << compat;
        ASSERT_TRUE(loop_->run((*overlay)->close()).ok());
    }
}

TEST_F(Jobs, WhatAnOverlayTakesOverIsNotLeftInTheHostsCache) {
    constexpr std::uint64_t kStride = 256U << 10, kData = 128U << 10, kDisk = 32U << 20;
    const NodePtr base = make("base", kDisk);
    for (std::uint64_t at = 0; at < kDisk; at += kStride) {
        write(*base, at, filled(kData, static_cast<unsigned>(at / kStride)));
    }
    const std::string path = folder_ + "/overlay";
    ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", {path, kDisk, {}})).ok());
    OpenOptions options;
    options.path = path;
    options.format = "qcow2";
    auto overlay = loop_->run(open_node(*loop_, std::move(options)));
    ASSERT_TRUE(overlay.ok());
    JobControl control;
    ASSERT_TRUE(
        loop_->run(absorb_difference(**overlay, base.get(), nullptr, nullptr, control)).ok());
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const auto left = cached_pages(fd.get(), 0, kDisk);
    const NodePtr probe = make("probe", kData);
    dynamic_cast<FileNode&>(*probe->children().front()).write_in_bulk();
    const AlignedBuffer bytes(kData);
    bytes.view().fill(std::byte{1});
    ASSERT_TRUE(loop_->run(probe->write(0, bytes.view())).ok());
    const UniqueFd probed(::open(probe->name().c_str(), O_RDONLY | O_CLOEXEC));
    if (cached_pages(probed.get(), 0, kData) == 0U) {  // else no direct writes, or not told
        EXPECT_LT(left.value_or(0), kDisk / 4096 / 8);
    }
    for (std::uint64_t at = 0; at < kDisk; at += kStride) {
        EXPECT_EQ(read(**overlay, at, kStride), read(*base, at, kStride)) << at;
    }
    ASSERT_TRUE(loop_->run((*overlay)->close()).ok());
}

TEST_F(Jobs, WorkersCopyFromFileToFile) {
    const NodePtr source = make("source", kSize), target = make("target", kSize);
    const auto bytes = filled(3U << 20, 1);
    write(*source, 4096 + 512, bytes);
    write(*source, 6U << 20, std::vector<std::byte>(1U << 20));
    const auto extent = loop_->run(source->status(4096, kSize - 4096));
    ASSERT_TRUE(extent.ok());
    const auto from = stretch_of(*extent);
    const auto to = loop_->run(direct_target(*target));
    ASSERT_TRUE(from && to.ok() && to->has_value());
    ASSERT_TRUE(copy_stretch({from->fd, 4096}, **to, 1U << 20, kSize - (1U << 20), 4096));
    EXPECT_EQ(read(*target, (1U << 20) + 512, bytes.size()), bytes);
    EXPECT_EQ(read(*target, 0, 1U << 20), std::vector<std::byte>(1U << 20));
    EXPECT_LE(loop_->run(target->allocated_bytes()).value(), (3U << 20) + 65536);  // no zeros
    EXPECT_FALSE(copy_stretch({-1, 0}, **to, 0, 4096, 0));
}

TEST_F(Jobs, CopiesOfSeveralFilesAreWhatTheFilesHave) {
    std::vector<NodePtr> sources;
    std::vector<std::byte> all;
    for (const char* name : {"first", "second"}) {
        const NodePtr node = make(name, kSize);
        const auto bytes = filled(kSize - (2U << 20) - 512, name[0]);
        write(*node, (1U << 20) + 512, bytes);
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.read_only = true;
        options.lock = false;
        auto opened = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(opened.ok());
        sources.push_back(*opened);
        all.resize(all.size() + (1U << 20) + 512);
        all.insert(all.end(), bytes.begin(), bytes.end());
        all.resize(all.size() + (1U << 20));
    }
    for (const bool in_order : {true, false}) {
        const NodePtr target = make(in_order ? "ordered" : "target", 2 * kSize);
        CopyOptions options;
        options.target_zero = true;
        options.in_order = in_order;
        JobControl control;
        ASSERT_TRUE(
            loop_->run(copy_image({sources[0].get(), sources[1].get()}, *target, options, control))
                .ok());
        EXPECT_EQ(read(*target, 0, 2 * kSize), all);
        EXPECT_LE(loop_->run(target->allocated_bytes()).value(), 2 * (kSize - (2U << 20)) + 65536);
    }
}

TEST_F(Jobs, ACancelledJobEndsWithAnError) {
    const NodePtr source = make("source", kSize);
    const NodePtr target = make("target", kSize);
    write(*source, 0, filled(kSize, 3));
    JobControl control;
    control.cancel();
    const auto result = loop_->run(copy_image({source.get()}, *target, {}, control));
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().system_errno(), ECANCELED);
}

TEST_F(Jobs, WhoAsksIsToldHowFarACopyIs) {
    const auto source = make("source", kSize), target = make("target", kSize);
    write(*source, 0, filled(1U << 20, 1));
    std::vector<std::uint64_t> told;
    hold_progress_signal();
    answer_progress_signal([&](std::uint64_t done, std::uint64_t total) {
        EXPECT_EQ(total, kSize);
        told.push_back(done);
        EXPECT_EQ(::raise(SIGUSR1), 0);  // and asks again
    });
    ASSERT_EQ(::raise(SIGUSR1), 0);
    JobControl control;
    const auto copied = loop_->run(copy_image({source.get()}, *target, {}, control));
    answer_progress_signal({});
    EXPECT_TRUE(take_progress_signal());
    ASSERT_TRUE(copied.ok());
    ASSERT_FALSE(told.empty());
    EXPECT_TRUE(std::ranges::is_sorted(told));
    EXPECT_EQ(told.back(), kSize);  // holes count as done
}

TEST(ProgressSignal, IsTakenOnceAndEndsNothing) {
    hold_progress_signal();
    (void)take_progress_signal();
    ASSERT_EQ(::raise(SIGUSR1), 0);
    ASSERT_EQ(::raise(SIGUSR1), 0);
    EXPECT_TRUE(take_progress_signal());
    EXPECT_FALSE(take_progress_signal());
}

TEST_F(Jobs, BenchesWriteWhatTheySay) {
    const NodePtr node = make("node", 1U << 20);
    BenchOptions options;
    options.count = 256;
    options.depth = 7;
    options.write = true;
    options.pattern = 0x5a;
    options.flush_interval = 16;
    ASSERT_TRUE(loop_->run(bench_image(*node, options)).ok());
    EXPECT_EQ(read(*node, 0, 1U << 20), std::vector<std::byte>(1U << 20, std::byte{0x5a}));
}

TEST_F(Jobs, ACopyPutsDownHowFarItIsAndGoesOnFromThere) {
    const NodePtr source = make("source", kSize), target = make("target", kSize);
    write(*source, 0, filled(kSize, 3));
    std::uint64_t done = 0;
    CopyOptions options;
    options.target_zero = true;
    options.checkpoint_every = std::chrono::milliseconds(0);
    options.checkpoint = [&done](std::uint64_t at) -> Result<> {
        EXPECT_GE(at, done);
        done = at;
        return at < kSize / 2 ? ok() : Result<>(Error(ErrorKind::Failed, "stopped"));
    };
    JobControl control;
    EXPECT_FALSE(loop_->run(copy_image({source.get()}, *target, options, control)).ok());
    ASSERT_GE(done, kSize / 2);
    EXPECT_EQ(read(*target, 0, done), read(*source, 0, done));
    write(*target, 0, std::vector<std::byte>(512));  // not looked at again
    options.start = done;
    options.checkpoint = [](std::uint64_t) { return ok(); };
    ASSERT_TRUE(loop_->run(copy_image({source.get()}, *target, options, control)).ok());
    EXPECT_EQ(read(*target, 512, kSize - 512), read(*source, 512, kSize - 512));
}

TEST_F(Jobs, ACompressedCopyGoesOnAmongClustersThatAreThere) {
    constexpr std::uint64_t kCluster = 64U << 10;
    const NodePtr source = make("source", kSize);
    write(*source, 0, filled(kSize, 5));
    ASSERT_TRUE(
        loop_->run(create_image(*loop_, "qcow2", CreateRequest{folder_ + "/packed", kSize, {}}))
            .ok());
    OpenOptions opening;
    opening.path = folder_ + "/packed";
    opening.format = "qcow2";
    const NodePtr target = loop_->run(open_node(*loop_, std::move(opening))).value();
    JobControl control;
    CopyOptions options;
    options.target_zero = options.compress = true;
    // What a kill left behind the place that was put down: every third cluster.
    for (std::uint64_t at = 0; at < kSize; at += (at < kCluster ? 1 : 3) * kCluster) {
        const auto bytes = read(*source, at, kCluster);
        ASSERT_TRUE(loop_->run(target->write_compressed(at, Buffers::of(bytes))).ok());
    }
    options.start = kCluster;
    ASSERT_TRUE(loop_->run(copy_image({source.get()}, *target, options, control)).ok());
    EXPECT_EQ(read(*target, 0, kSize), read(*source, 0, kSize));
    ASSERT_TRUE(loop_->run(target->close()).ok());
}

}  // namespace
}  // namespace strata::block
