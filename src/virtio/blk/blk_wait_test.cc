// BlkDevice on a disk that has no room: what waits, what is reported, and what becomes of it.
#include <cerrno>
#include <cstring>

#include <gtest/gtest.h>

#include "io/event_fd.h"
#include "state/state_stream.h"
#include "virtio/blk/blk.h"
#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kHeader = 0x40000, kStatus = 0x40100, kData = 0x50000;
constexpr std::uint8_t kNoStatus = 0xee;

/// What the test decides about the disk.
struct Host {
    int write_error = 0;
    int flush_error = 0;
    unsigned writes = 0;
    std::vector<std::byte> content = std::vector<std::byte>(1 << 20);
};

class TestQueue final : public block::DiskQueue {
  public:
    explicit TestQueue(Host& host) : host_(host), done_(io::EventFd::create().value()) {}
    void submit(block::DiskRequest request) override { batch_.push_back(std::move(request)); }
    void kick() override {
        for (const block::DiskRequest& request : batch_) {
            finished_.push_back({request.token, serve(request)});
            done_.signal();
        }
        batch_.clear();
    }
    [[nodiscard]] int completion_fd() const override { return done_.fd(); }
    void reap(std::vector<block::DiskCompletion>& out) override {
        (void)done_.drain();
        out.insert(out.end(), finished_.begin(), finished_.end());
        finished_.clear();
    }
    void wait() override { kick(); }
    [[nodiscard]] std::size_t in_flight() const override {
        return batch_.size() + finished_.size();
    }

  private:
    int serve(const block::DiskRequest& request) {
        if (request.op == block::DiskOp::Flush) {
            return host_.flush_error;
        }
        if (request.op == block::DiskOp::Read || host_.write_error != 0) {
            return request.op == block::DiskOp::Read ? 0 : host_.write_error;
        }
        ++host_.writes;
        std::uint64_t at = request.offset;
        for (const iovec& buffer : request.buffers) {
            std::memcpy(host_.content.data() + at, buffer.iov_base, buffer.iov_len);
            at += buffer.iov_len;
        }
        return 0;
    }

    Host& host_;
    io::EventFd done_;
    std::vector<block::DiskRequest> batch_;
    std::vector<block::DiskCompletion> finished_;
};

class TestImage final : public block::DiskImage {
  public:
    explicit TestImage(Host& host) : host_(host) {
        traits_.size = host.content.size();
        traits_.write_zeroes = true;
    }
    [[nodiscard]] std::string_view name() const override { return "full.raw"; }
    [[nodiscard]] std::string_view format() const override { return "raw"; }
    [[nodiscard]] const block::DiskTraits& traits() const override { return traits_; }
    Result<std::unique_ptr<block::DiskQueue>> open_queue(unsigned /*depth*/) override {
        return std::unique_ptr<block::DiskQueue>(std::make_unique<TestQueue>(host_));
    }

  private:
    Host& host_;
    block::DiskTraits traits_;
};

class BlkWaitTest : public testing::Test {
  protected:
    void make(block::WriteErrorPolicy policy,
              std::uint64_t features = Feature::kVersion1 | blk::Features::kFlush) {
        device_.reset();
        loop_ = io::EventLoop::create().value();
        BlkConfig config;
        config.write_errors = policy;
        config.on_wait = [this] { ++told_; };
        device_ = BlkDevice::create(config, std::make_unique<TestImage>(disk_), *loop_).value();
        device_->attach(host_);
        driver_ = std::make_unique<MockQueue>(host_.memory(), rings_ += 0x1000, 16);
        ASSERT_TRUE(device_->activate({features, {driver_->setup()}}).ok());
    }
    /// Status of a write of one sector at `sector`; nothing if it has not come.
    std::optional<int> write(std::uint64_t sector, std::uint32_t type = blk::RequestType::kOut) {
        EXPECT_TRUE(host_.memory()
                        .store(memory::GuestAddress(kHeader), blk::RequestHeader{type, 0U, sector})
                        .ok());
        EXPECT_TRUE(host_.memory().store(memory::GuestAddress(kStatus), kNoStatus).ok());
        std::vector<MockBuffer> buffers{{kHeader, 16, false}};
        if (type == blk::RequestType::kOut) {
            buffers.push_back({kData, 512, false});
        }
        buffers.push_back({kStatus, 1, true});
        driver_->add(buffers);
        device_->notify(0);
        return status();
    }
    std::optional<int> status() {
        for (int round = 0; round < 5; ++round) {
            loop_->run_once(std::chrono::milliseconds(0));
        }
        return driver_->take_used() ? std::optional<int>(*host_.memory().load<std::uint8_t>(
                                          memory::GuestAddress(kStatus)))
                                    : std::nullopt;
    }

    Host disk_;
    MockHost host_;
    std::uint64_t rings_ = 0x10000;
    unsigned told_ = 0;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<MockQueue> driver_;
    std::unique_ptr<BlkDevice> device_;
};

TEST_F(BlkWaitTest, WriteWithoutRoomWaitsUntilThereIsSome) {
    make(block::WriteErrorPolicy::Enospc);
    ASSERT_TRUE(
        host_.memory().store<std::uint64_t>(memory::GuestAddress(kData), 0x1122334455667788).ok());
    disk_.write_error = ENOSPC;
    EXPECT_EQ(write(5), std::nullopt);
    ASSERT_TRUE(device_->waiting().has_value());
    EXPECT_EQ(device_->waiting()->disk, "full.raw");
    EXPECT_EQ(device_->waiting()->offset, 5U * 512);
    EXPECT_EQ(device_->waiting()->error, ENOSPC);
    EXPECT_EQ(told_, 1U);
    device_->retry();
    EXPECT_EQ(status(), std::nullopt) << "still full";
    EXPECT_EQ(told_, 1U);
    disk_.write_error = 0;
    device_->retry();
    EXPECT_EQ(status(), 0);
    EXPECT_EQ(told_, 2U);
    EXPECT_FALSE(device_->waiting().has_value());
    EXPECT_EQ(disk_.writes, 1U);
    EXPECT_EQ(disk_.content[5 * 512], std::byte{0x88});
}

TEST_F(BlkWaitTest, PausedDeviceStillTriesAgainAndIsNotSavedMeanwhile) {
    make(block::WriteErrorPolicy::Enospc);
    disk_.write_error = EDQUOT;
    EXPECT_EQ(write(1), std::nullopt);
    ASSERT_TRUE(device_->pause().ok());
    state::StateWriter early;
    EXPECT_EQ(device_->save(early).error().kind(), ErrorKind::WrongState);
    disk_.write_error = 0;
    device_->retry();
    EXPECT_EQ(status(), 0);
    state::StateWriter writer;
    EXPECT_TRUE(device_->save(writer).ok());
}

TEST_F(BlkWaitTest, OtherErrorsAreTheGuests) {
    make(block::WriteErrorPolicy::Enospc);
    disk_.write_error = EIO;
    EXPECT_EQ(write(1), 1);
    disk_.write_error = 0;
    disk_.flush_error = ENOSPC;
    EXPECT_EQ(write(0, blk::RequestType::kFlush), 1)
        << "what a failed flush was to write may be gone";
    EXPECT_EQ(told_, 0U);
}

TEST_F(BlkWaitTest, FlushAfterAWriteDoesNotWait) {
    make(block::WriteErrorPolicy::Enospc, Feature::kVersion1);
    disk_.flush_error = ENOSPC;
    EXPECT_EQ(write(1), 1);
    EXPECT_EQ(disk_.writes, 1U);
}

TEST_F(BlkWaitTest, PoliciesReportStopAndIgnore) {
    disk_.write_error = ENOSPC;
    make(block::WriteErrorPolicy::Report);
    EXPECT_EQ(write(1), 1);
    disk_.write_error = EIO;
    make(block::WriteErrorPolicy::Ignore);
    EXPECT_EQ(write(1), 0);
    make(block::WriteErrorPolicy::Stop);
    EXPECT_EQ(write(1), std::nullopt);
    disk_.write_error = 0;
    device_->retry();
    EXPECT_EQ(status(), 0);
}

TEST_F(BlkWaitTest, ResetGivesUpWhatWaits) {
    make(block::WriteErrorPolicy::Enospc);
    disk_.write_error = ENOSPC;
    EXPECT_EQ(write(1), std::nullopt);
    device_->reset();
    EXPECT_FALSE(device_->waiting().has_value());
    EXPECT_EQ(told_, 2U);
    disk_.write_error = 0;
    device_->retry();
    EXPECT_EQ(disk_.writes, 0U);
    EXPECT_TRUE(device_->idle());
}

TEST_F(BlkWaitTest, WhatWaitsSurvivesAnExchangeOfTheImage) {
    make(block::WriteErrorPolicy::Enospc);
    ASSERT_TRUE(host_.memory().store<std::uint64_t>(memory::GuestAddress(kData), 0x77).ok());
    disk_.write_error = ENOSPC;
    EXPECT_EQ(write(5), std::nullopt);
    Host other;
    ASSERT_TRUE(device_->exchange_image(std::make_unique<TestImage>(other)).ok());
    ASSERT_TRUE(device_->waiting().has_value());
    device_->retry();
    EXPECT_EQ(status(), 0);
    EXPECT_FALSE(device_->waiting().has_value());
    EXPECT_EQ(disk_.writes, 0U);
    EXPECT_EQ(other.content[5 * 512], std::byte{0x77});
    device_.reset();  // before `other`
}

}  // namespace
}  // namespace strata::virtio
