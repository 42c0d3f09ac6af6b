// DirectEvents: when user code counts as running long enough.
#include "engine/soft/direct/direct_events.h"

#include <memory>

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

class DirectEventsTest : public testing::Test {
  protected:
    void SetUp() override {
        cpu_->direct = events_.get();
        cpu_->cr3 = 0x1000;
        cpu_->cpl = 3;
        events_->tsc_khz = 2'000'000;
    }
    // Returns to user code with half a millisecond of work between them.
    bool work_until_active() {
        for (int i = 0; i < 100; ++i) {
            for (const std::uint64_t end = thread_cpu_ns() + 500'000; thread_cpu_ns() < end;) {
            }
            note_kernel_entry(*cpu_);
            if (note_user_return(*cpu_)) {
                return true;
            }
        }
        return false;
    }
    std::unique_ptr<CpuState> cpu_ = std::make_unique<CpuState>();
    std::unique_ptr<DirectEvents> events_ = std::make_unique<DirectEvents>();
};

TEST_F(DirectEventsTest, LongUserTimeMakesTheSpaceActive) {
    EXPECT_TRUE(work_until_active());
    EXPECT_TRUE(current_space(*cpu_).active);
}

TEST_F(DirectEventsTest, ShortUserTimeDoesNot) {
    for (int i = 0; i < 1000; ++i) {
        EXPECT_FALSE(note_user_return(*cpu_));
        note_kernel_entry(*cpu_);
    }
    EXPECT_GT(events_->space->entries, 500U);
}

// Between two returns lies the kernel's time too.
TEST_F(DirectEventsTest, LongSystemCallsDoNot) {
    for (int i = 0; i < 300; ++i) {
        EXPECT_FALSE(note_user_return(*cpu_));
        note_kernel_entry(*cpu_);
        for (const std::uint64_t end = thread_cpu_ns() + 100'000; thread_cpu_ns() < end;) {
        }
    }
}

// The kernel's entry was not noticed: what is found at the next is no user time.
TEST_F(DirectEventsTest, MissedEntryIsNoUserTime) {
    ASSERT_FALSE(note_user_return(*cpu_));
    ASSERT_FALSE(note_user_return(*cpu_));
    note_kernel_entry(*cpu_);
    EXPECT_EQ(events_->stretch, 0U);
}

TEST_F(DirectEventsTest, SpacesAreApart) {
    ASSERT_TRUE(work_until_active());
    cpu_->cr3 = 0x2000;
    EXPECT_FALSE(current_space(*cpu_).active);
    cpu_->cr3 = 0x1000;
    EXPECT_TRUE(note_user_return(*cpu_));
}

TEST_F(DirectEventsTest, BackoffKeepsItOut) {
    ASSERT_TRUE(work_until_active());
    UserSpace& space = current_space(*cpu_);
    set_active(*events_, space, false);
    space.not_before = ~0ULL;
    EXPECT_FALSE(work_until_active());
}

TEST_F(DirectEventsTest, LossesKeepItOut) {
    events_->lost_ns = 1'000'000'000;
    EXPECT_FALSE(work_until_active());
    events_->lost_ns = 0;
    EXPECT_TRUE(work_until_active());
}

TEST_F(DirectEventsTest, ShortRunHoldsUntilUserCodeRunsForLonger) {
    ASSERT_TRUE(work_until_active());
    UserSpace& space = current_space(*cpu_);
    EXPECT_TRUE(note_user_return(*cpu_));
    space.hold = true;
    EXPECT_FALSE(note_user_return(*cpu_));
    EXPECT_TRUE(work_until_active());
    EXPECT_FALSE(space.hold);
    space.hold = true;
    for (int i = 0; i < 1000; ++i) {
        EXPECT_FALSE(note_user_return(*cpu_));
    }
    EXPECT_FALSE(space.active);  // it calls its kernel all the time now
    EXPECT_EQ(events_->active, 0U);
}

// Page faults between long runs do not send it to the translator.
TEST_F(DirectEventsTest, OneShortRunDoesNotHold) {
    UserSpace& space = current_space(*cpu_);
    set_active(*events_, space, true);
    note_direct_run(space, 5);
    EXPECT_FALSE(space.hold);
    for (int i = 0; i < 1000 && !space.hold; ++i) {
        note_direct_run(space, i % 2 == 0 ? 5 : 60);
    }
    EXPECT_FALSE(space.hold);
    int runs = 0;
    for (; runs < 1000 && !space.hold; ++runs) {
        note_direct_run(space, 5);
    }
    EXPECT_TRUE(space.hold);
    EXPECT_LT(runs, 20);
    // It was found in the middle of a stay in the stub: what follows there takes nothing back.
    note_direct_run(space, 60);
    EXPECT_TRUE(space.hold);
    space.hold = false;
    note_direct_run(space, 5);
    EXPECT_FALSE(space.hold);
}

// A new process is not left with the translator until most of it is over.
TEST_F(DirectEventsTest, AMillisecondOfUserCodeIsEnough) {
    (void)note_user_return(*cpu_);
    events_->countdown = events_->rounds = 1;
    events_->stretch = 1200ULL * events_->tsc_khz / 1000;
    EXPECT_TRUE(note_user_return(*cpu_));
}

TEST_F(DirectEventsTest, InterruptEndsTheWindow) {
    (void)note_user_return(*cpu_);
    EXPECT_EQ(events_->countdown, events_->rounds);
    note_interrupt(*cpu_);
    EXPECT_EQ(events_->countdown, 1U);
    EXPECT_EQ(events_->rounds, 1U);
}

TEST_F(DirectEventsTest, AlwaysIsAlways) {
    events_->always = true;
    EXPECT_TRUE(note_user_return(*cpu_));
    EXPECT_TRUE(note_user_return(*cpu_));
}

TEST_F(DirectEventsTest, FlushesAreCounted) {
    note_flush_all(*cpu_);
    note_flush_pcid(*cpu_, 3);
    note_page_event(*cpu_, 0x5000);
    EXPECT_EQ(events_->flushes_all, 1U);
    EXPECT_EQ(events_->flushes[3], 1U);
    EXPECT_EQ(events_->ring[0], 0x5000U);
    EXPECT_EQ(events_->head, 1U);
    cpu_->direct = nullptr;
    note_flush_all(*cpu_);  // nobody listens
}

}  // namespace
}  // namespace strata::engine::soft
