// EventLoop and MachineClock: order of work, timers, watches; time that stands still while paused.
#include "io/event_loop.h"

#include <thread>

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include "io/machine_clock.h"

namespace strata::io {
namespace {

using std::chrono::milliseconds;

TEST(EventLoopTest, PostedWorkRunsInOrder) {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop.ok());
    std::vector<int> seen;
    (*loop)->post([&] { seen.push_back(1); });
    (*loop)->post([&] { seen.push_back(2); });
    (*loop)->run_once(milliseconds(0));
    EXPECT_EQ(seen, (std::vector<int>{1, 2}));
}

TEST(EventLoopTest, CancelledTimerDoesNotFire) {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop.ok());
    int fired = 0;
    const auto now = EventLoop::Clock::now();
    const auto cancelled = (*loop)->at(now, [&] { fired += 10; });
    (void)(*loop)->at(now, [&] { fired += 1; });  // stays armed
    (*loop)->cancel(cancelled);
    (*loop)->run_once(milliseconds(10));
    EXPECT_EQ(fired, 1);
}

TEST(EventLoopTest, WatchSeesAReadableDescriptor) {
    auto loop = EventLoop::create();
    auto event = EventFd::create();
    ASSERT_TRUE(loop.ok() && event.ok());
    bool seen = false;
    auto id = (*loop)->watch(event->fd(), EPOLLIN, [&](std::uint32_t) { seen = event->drain(); });
    ASSERT_TRUE(id.ok());
    event->signal();
    (*loop)->run_once(milliseconds(100));
    EXPECT_TRUE(seen);
    (*loop)->remove(*id);
}

TEST(EventLoopTest, StopFromAnotherThreadEndsRun) {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop.ok());
    std::jthread stopper([&] { (*loop)->stop(); });
    (*loop)->run();
}

TEST(MachineClockTest, PausedTimeStandsStill) {
    MachineClock clock;
    clock.pause();
    const auto first = clock.now();
    std::this_thread::sleep_for(milliseconds(2));
    EXPECT_EQ(clock.now(), first);
    clock.set(5000);
    EXPECT_EQ(clock.now(), 5000U);
    clock.resume();
    EXPECT_GE(clock.now(), 5000U);
}

}  // namespace
}  // namespace strata::io
