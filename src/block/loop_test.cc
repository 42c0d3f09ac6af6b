// Block graph tests: Task, Loop, and what coroutines wait for.
#include "block/loop.h"

#include <array>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "block/buffers.h"
#include "block/sync.h"

namespace strata::block {
namespace {

Task<int> plus_one(int value) {
    co_return value + 1;
}

Task<int> fails() {
    co_return Error{ErrorKind::Failed, "no"};
}

Task<int> count_to(int limit) {
    int value = 0;
    while (value < limit) {
        STRATA_CO_TRY(value, co_await plus_one(value));
    }
    co_return value;
}

Task<int> passes_failure_on() {
    STRATA_CO_TRY(const int value, co_await fails());
    co_return value;
}

Task<int> after_a_turn(Loop& loop, int value) {
    co_await loop.yield();
    co_return value;
}

Task<int> sum_with_turns(Loop& loop, int limit) {
    int sum = 0;
    for (int i = 0; i < limit; ++i) {
        STRATA_CO_TRY(const int value, co_await after_a_turn(loop, i));
        sum += value;
    }
    co_return sum;
}

class LoopTest : public testing::Test {
  protected:
    void SetUp() override {
        auto loop = Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 2});
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(loop).value();
    }
    std::unique_ptr<Loop> loop_;
};

TEST_F(LoopTest, ManyTasksThatDoNotSuspendNeedNoStack) {
    EXPECT_EQ(*loop_->run(count_to(1000000)), 1000000);
}

TEST_F(LoopTest, ErrorsTravelUp) {
    EXPECT_EQ(loop_->run(passes_failure_on()).error().text(), "no");
}

TEST_F(LoopTest, SuspendedTasksResumeTheirParents) {
    EXPECT_EQ(*loop_->run(sum_with_turns(*loop_, 1000)), 499500);
}

Task<> hold(Loop& loop, AsyncMutex& mutex, std::string& log, char mark) {
    const auto lock = co_await mutex.lock();
    log += mark;
    co_await loop.yield();
    co_await loop.yield();
    log += mark;
    co_return ok();
}

TEST_F(LoopTest, MutexKeepsTasksApartInOrder) {
    AsyncMutex mutex(*loop_);
    std::string log;
    TaskGroup group(*loop_, 8);
    group.start(hold(*loop_, mutex, log, 'a'));
    group.start(hold(*loop_, mutex, log, 'b'));
    group.start(hold(*loop_, mutex, log, 'c'));
    EXPECT_TRUE(loop_->run(group.finish()).ok());
    EXPECT_EQ(log, "aabbcc");
}

Task<> track(Loop& loop, int& running, int& most) {
    most = std::max(most, ++running);
    co_await loop.sleep(std::chrono::milliseconds(1));
    --running;
    co_return ok();
}

Task<> add_many(Loop& loop, TaskGroup& group, int& running, int& most) {
    for (int i = 0; i < 20; ++i) {
        (void)co_await group.add(track(loop, running, most));
    }
    co_return co_await group.finish();
}

TEST_F(LoopTest, GroupKeepsItsLimit) {
    TaskGroup group(*loop_, 3);
    int running = 0, most = 0;
    EXPECT_TRUE(loop_->run(add_many(*loop_, group, running, most)).ok());
    EXPECT_EQ(most, 3);
}

Task<> one_fails() {
    co_return Error{ErrorKind::NotFound, "gone"};
}

TEST_F(LoopTest, GroupAnswersTheFirstError) {
    TaskGroup group(*loop_, 3);
    group.start(one_fails());
    EXPECT_EQ(loop_->run(group.finish()).error().kind(), ErrorKind::NotFound);
}

Task<std::thread::id> worker_id(Loop& loop) {
    auto id = co_await loop.offload([] { return std::this_thread::get_id(); });
    co_return id;
}

TEST_F(LoopTest, OffloadedWorkRunsElsewhere) {
    EXPECT_NE(*loop_->run(worker_id(*loop_)), std::this_thread::get_id());
}

Task<std::uint32_t> until_readable(Loop& loop, int fd) {
    const std::uint32_t got = co_await loop.wait_fd(fd, EPOLLIN);
    co_return got;
}

TEST_F(LoopTest, DescriptorIsWaitedFor) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const UniqueFd in(ends[0]), out(ends[1]);
    const std::jthread writer([&] { EXPECT_EQ(::write(out.get(), "x", 1), 1); });
    EXPECT_NE(*loop_->run(until_readable(*loop_, in.get())) & EPOLLIN, 0U);
}

TEST_F(LoopTest, WorkPostedFromElsewhereRunsOnTheLoop) {
    std::thread::id ran;
    {
        const std::jthread poster([&] {
            loop_->post([&] {
                ran = std::this_thread::get_id();
                loop_->stop();
            });
        });
        loop_->run_until_stopped();
    }
    EXPECT_EQ(ran, std::this_thread::get_id());
}

TEST(BuffersTest, SlicesCrossPieces) {
    std::string a = "abc", b = "defg";
    const std::array<iovec, 2> pieces{{{a.data(), a.size()}, {b.data(), b.size()}}};
    const Buffers part = Buffers(std::span<const iovec>(pieces)).slice(2, 3).from(1);
    std::array<std::byte, 2> bytes{};
    part.copy_to(bytes);
    EXPECT_EQ(bytes[0], std::byte{'d'});
    part.fill(std::byte{'x'});
    EXPECT_EQ(a + b, "abcxxfg");
    std::span<std::byte> piece;
    EXPECT_TRUE(part.contiguous(piece));
}

TEST(BuffersTest, ZeroesAreRecognised) {
    std::vector<std::byte> bytes(100);
    EXPECT_TRUE(is_zero(bytes));
    bytes[99] = std::byte{1};
    EXPECT_FALSE(is_zero(bytes));
    EXPECT_TRUE(is_zero(std::span(bytes).first(99)));
}

}  // namespace
}  // namespace strata::block
