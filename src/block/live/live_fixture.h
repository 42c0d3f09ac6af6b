// LiveTest: a disk in use, somebody who writes to it, and what it must hold.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "block/bitmap.h"
#include "block/filters/fault/fault.h"
#include "block/filters/filter_node.h"
#include "block/live/backup.h"
#include "block/live/live_disk.h"
#include "block/live/mirror.h"
#include "block/live/stream.h"
#include "block/registry.h"

namespace strata::block {

inline constexpr std::uint64_t kSize = 8U << 20;
using Finish = LiveJob::Finish;

/// Remembers the largest read and, in a log, what changes the disk and what makes it durable; loses
/// a bitmap that it cannot store, or fails to flush, when told to.
class Spy final : public FilterNode {
  public:
    using FilterNode::FilterNode;
    [[nodiscard]] std::string_view format() const override { return child().format(); }
    Task<> read(std::uint64_t offset, Buffers into) override {
        largest = std::max(largest, into.size());
        return FilterNode::read(offset, into);
    }
    Task<> write(std::uint64_t offset, Buffers from) override {
        tell('w');
        return FilterNode::write(offset, from);
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        tell('w');
        return FilterNode::write_zeroes(offset, length, options);
    }
    Task<> flush() override {
        if (broken) {
            co_return Error{ErrorKind::Failed, "no flush", EIO};
        }
        STRATA_CO_TRY_VOID(co_await FilterNode::flush());
        tell('f');
        co_return ok();
    }
    Task<> store_bitmap(Bitmap bitmap) override {
        tell('b');
        if (std::exchange(full, false)) {
            STRATA_CO_TRY_VOID(co_await child().remove_bitmap(bitmap.info.name));
            STRATA_CO_TRY_VOID(co_await child().store_bitmap(std::move(bitmap)));
            co_return Error{ErrorKind::Failed, "no space", ENOSPC};
        }
        co_return co_await child().store_bitmap(std::move(bitmap));
    }
    std::uint64_t largest = 0;
    bool full = false, broken = false;
    std::shared_ptr<std::string> log{};  ///< w: written, f: flushed, b: a bitmap is to be stored

  private:
    void tell(char event) {
        if (log != nullptr) {
            log->push_back(event);
        }
    }
};

class LiveTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string folder =
            (std::filesystem::temp_directory_path() / "strata-live-XXXXXX").string();
        ASSERT_NE(::mkdtemp(folder.data()), nullptr);
        folder_ = folder;
        loop_ = Loop::create({.engine = IoEngine::Threads}).value();
    }
    void TearDown() override {
        if (live_ != nullptr) {
            EXPECT_TRUE(loop_->run(live_->disk().close()).ok());
        }
        live_.reset();
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    std::string path(const std::string& name) { return (folder_ / name).string(); }
    NodePtr make(const std::string& name, const std::string& format, OptionList options = {}) {
        CreateRequest request;
        request.path = path(name);
        request.size = kSize;
        request.options = std::move(options);
        EXPECT_TRUE(loop_->run(create_image(*loop_, format, std::move(request))).ok());
        return open(name, format, false);
    }
    NodePtr open(const std::string& name, const std::string& format, bool read_only,
                 bool backing = true, bool lock = true) {
        OpenOptions options;
        options.path = path(name);
        options.format = format;
        options.read_only = read_only;
        options.references = follow_references();
        options.open_backing = backing;
        options.lock = lock;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok()) << node.error().text();
        return node.value();
    }
    void use(NodePtr disk) { live_ = std::make_unique<LiveDisk>(std::move(disk), nullptr); }
    /// Fills some of the disk, and remembers it.
    void fill(Node& disk, std::uint64_t seed) {
        std::mt19937_64 random(seed);
        for (int i = 0; i < 40; ++i) {
            write_at(disk, random, expected_);
        }
    }
    void write_at(Node& disk, std::mt19937_64& random, std::vector<std::byte>& model) {
        const std::uint64_t offset = random() % (kSize / 512) * 512;
        const std::uint64_t length = std::min((random() % 200 + 1) * 512, kSize - offset);
        const std::vector<std::byte> bytes(length, static_cast<std::byte>(random()));
        EXPECT_TRUE(loop_->run(disk.write(offset, Buffers::of(bytes))).ok());
        std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    std::vector<std::byte> content(Node& node) {
        std::vector<std::byte> bytes(kSize);
        EXPECT_TRUE(loop_->run(node.read(0, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    /// One request of the guest's, as its queue makes it.
    Task<> guest(std::uint64_t kind, std::uint64_t offset, const std::vector<std::byte>& bytes) {
        STRATA_CO_TRY(const auto pass, co_await live_->gate().shared());
        Node& top = live_->top();
        if (kind == 0) {
            STRATA_CO_TRY_VOID(
                co_await top.write_zeroes(offset, bytes.size(), {.may_unmap = true}));
        } else {
            STRATA_CO_TRY_VOID(co_await top.write(offset, Buffers::of(bytes)));
        }
        co_return ok();
    }
    /// Requests of a lane of its own part of the disk, one after another, until told to end.
    Task<> keep_writing(unsigned lane, bool& over) {
        std::mt19937_64 random(lane);
        constexpr std::uint64_t kLane = kSize / 4;
        while (!over) {
            const std::uint64_t offset = lane * kLane + random() % (kLane / 512) * 512;
            const std::uint64_t room = (lane + 1) * kLane - offset;
            const std::uint64_t length = std::min((random() % 300 + 1) * 512, room);
            const std::uint64_t kind = random() % 8;
            const std::vector<std::byte> bytes(
                length, kind == 0 ? std::byte{0} : static_cast<std::byte>(random()));
            STRATA_CO_TRY_VOID(co_await guest(kind, offset, bytes));
            std::ranges::copy(bytes, expected_.begin() + static_cast<std::ptrdiff_t>(offset));
            ++writes_;
            co_await loop_->yield();
        }
        co_return ok();
    }
    /// Runs `job` while four lanes write; `during` is awaited beside it. Nothing is written between
    /// the call and the job's beginning.
    Result<> run_under_load(std::shared_ptr<LiveJob> job,
                            std::function<Task<>(LiveJob&)> during = {}) {
        bool over = false, ended = false;
        Result<> done = ok(), written = ok();
        loop_->spawn(live_->run(job), [&](Result<> result) {
            done = std::move(result);
            ended = true;
        });
        for (unsigned lane = 0; lane < 4; ++lane) {
            loop_->spawn(keep_writing(lane, over), [&](Result<> result) {
                if (!result.ok()) {
                    written = std::move(result);
                }
            });
        }
        if (during) {
            loop_->spawn(during(*job));
        }
        while (!ended) {
            EXPECT_TRUE(loop_->run(pause(1)).ok());
        }
        EXPECT_TRUE(loop_->run(pause(20)).ok());
        over = true;
        while (loop_->spawned() != 0) {
            EXPECT_TRUE(loop_->run(pause(1)).ok());
        }
        EXPECT_TRUE(written.ok()) << written.error().text();
        return done;
    }
    Task<> pause(int milliseconds) {
        co_await loop_->sleep(std::chrono::milliseconds(milliseconds));
        co_return ok();
    }
    bool clean(Node& node) {
        auto report = loop_->run(node.check(Repair::Nothing));
        return report.ok() && report->clean();
    }

    std::filesystem::path folder_;
    std::unique_ptr<Loop> loop_;
    std::unique_ptr<LiveDisk> live_;
    std::vector<std::byte> expected_ = std::vector<std::byte>(kSize);
    std::uint64_t writes_ = 0;
};

}  // namespace strata::block
