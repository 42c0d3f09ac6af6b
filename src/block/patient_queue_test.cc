// PatientQueue: what becomes of refused writes, by policy.
#include "block/patient_queue.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace strata::block {
namespace {

/// Answers every request with `error` at the next reap().
class ScriptedQueue final : public DiskQueue {
  public:
    explicit ScriptedQueue(int& error) : error_(error) {}
    void submit(DiskRequest request) override { tokens_.push_back(request.token); }
    void kick() override {}
    [[nodiscard]] int completion_fd() const override { return -1; }
    void reap(std::vector<DiskCompletion>& out) override {
        for (const std::uint64_t token : tokens_) {
            out.push_back({token, error_});
        }
        tokens_.clear();
    }
    void wait() override {}
    [[nodiscard]] std::size_t in_flight() const override { return tokens_.size(); }

  private:
    int& error_;
    std::vector<std::uint64_t> tokens_;
};

class PatientQueueTest : public testing::Test {
  protected:
    void make(WriteErrorPolicy policy, ReadErrorPolicy reads = ReadErrorPolicy::Report) {
        queue_ = std::make_unique<PatientQueue>(
            std::make_unique<ScriptedQueue>(error_), "d", policy, [this] { ++calls_; }, reads);
    }
    std::vector<DiskCompletion> reap() {
        std::vector<DiskCompletion> done;
        queue_->reap(done);
        return done;
    }
    void write(std::uint64_t token) {
        queue_->submit({.op = DiskOp::Write, .offset = 4096, .token = token});
    }
    int error_ = 0;
    int calls_ = 0;
    std::unique_ptr<PatientQueue> queue_;
};

TEST_F(PatientQueueTest, WriteWithoutRoomWaitsUntilThereIsSome) {
    make(WriteErrorPolicy::Enospc);
    error_ = ENOSPC;
    write(7);
    EXPECT_TRUE(reap().empty());
    ASSERT_TRUE(queue_->waiting());
    EXPECT_EQ(queue_->waiting()->offset, 4096U);
    EXPECT_EQ(queue_->in_flight(), 0U);
    queue_->retry();
    EXPECT_TRUE(reap().empty());
    EXPECT_EQ(calls_, 1);
    error_ = 0;
    queue_->retry();
    const auto done = reap();
    ASSERT_EQ(done.size(), 1U);
    EXPECT_EQ(done[0].token, 7U);
    EXPECT_EQ(done[0].error, 0);
    EXPECT_FALSE(queue_->waiting());
    EXPECT_EQ(calls_, 2);
}

TEST_F(PatientQueueTest, GivenUpWriteFails) {
    make(WriteErrorPolicy::Stop);
    error_ = EIO;
    write(7);
    write(8);
    EXPECT_TRUE(reap().empty());
    queue_->give_up(7);
    EXPECT_EQ(reap().at(0).token, 7U);
    queue_->give_up_all();
    EXPECT_EQ(reap().at(0).error, EIO);
    EXPECT_FALSE(queue_->waiting());
}

TEST_F(PatientQueueTest, WriteGivenUpUnderWayIsNotHeldAfterwards) {
    make(WriteErrorPolicy::Stop);
    error_ = EIO;
    write(7);
    queue_->give_up_all();
    EXPECT_EQ(reap().at(0).error, EIO);
    EXPECT_FALSE(queue_->waiting());
}

TEST_F(PatientQueueTest, OtherErrorsAndOtherRequestsDoNotWait) {
    make(WriteErrorPolicy::Enospc);
    error_ = EIO;
    write(7);
    EXPECT_EQ(reap().at(0).error, EIO);
    error_ = ENOSPC;
    queue_->submit({.op = DiskOp::Flush, .token = 9});
    EXPECT_EQ(reap().at(0).error, ENOSPC);
}

TEST_F(PatientQueueTest, IgnoredErrorsCountAsWritten) {
    make(WriteErrorPolicy::Ignore);
    error_ = EIO;
    write(7);
    EXPECT_EQ(reap().at(0).error, 0);
}

TEST_F(PatientQueueTest, ReadsWaitIfTheirPolicySaysSo) {
    make(WriteErrorPolicy::Report, ReadErrorPolicy::Stop);
    error_ = EIO;
    queue_->submit({.op = DiskOp::Read, .offset = 512, .token = 3});
    EXPECT_TRUE(reap().empty());
    ASSERT_TRUE(queue_->waiting());
    EXPECT_TRUE(queue_->waiting()->reading);
    error_ = 0;
    queue_->retry();
    EXPECT_EQ(reap().at(0).error, 0);
    make(WriteErrorPolicy::Stop);
    error_ = EIO;
    queue_->submit({.op = DiskOp::Read, .token = 3});
    EXPECT_EQ(reap().at(0).error, EIO);
}

TEST_F(PatientQueueTest, FlushWaitsOnlyIfItNeverGotThere) {
    make(WriteErrorPolicy::Stop);
    error_ = EIO;
    queue_->submit({.op = DiskOp::Flush, .token = 1});
    EXPECT_EQ(reap().at(0).error, EIO);
    error_ = kUnreachable;
    queue_->submit({.op = DiskOp::Flush, .token = 2});
    EXPECT_TRUE(reap().empty());
    EXPECT_TRUE(queue_->waiting());
}

TEST_F(PatientQueueTest, WhatWaitsIsTriedOnTheQueueThatFollows) {
    make(WriteErrorPolicy::Enospc);
    error_ = ENOSPC;
    write(7);
    EXPECT_TRUE(reap().empty());
    int better = 0;
    queue_->exchange(std::make_unique<ScriptedQueue>(better));
    EXPECT_TRUE(queue_->waiting());
    queue_->retry();
    const auto done = reap();
    ASSERT_EQ(done.size(), 1U);
    EXPECT_EQ(done[0].token, 7U);
    EXPECT_EQ(done[0].error, 0);
    EXPECT_FALSE(queue_->waiting());
}

}  // namespace
}  // namespace strata::block
