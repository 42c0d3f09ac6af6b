// SplitQueue: chains, indirect tables, event indexes, and drivers that break the rules.
#include "virtio/core/split_queue.h"

#include <gtest/gtest.h>

#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kRings = 0x10000;
constexpr std::uint64_t kData = 0x20000;

class SplitQueueTest : public testing::Test {
  protected:
    void make(std::uint64_t features, std::uint16_t size = 8) {
        driver_ = std::make_unique<MockQueue>(host_.memory(), kRings, size);
        auto made = make_virtqueue(host_.memory(), driver_->setup(), features);
        ASSERT_TRUE(made.ok());
        queue_ = std::move(made).value();
    }
    bool pop_fails() {
        auto chain = queue_->pop();
        if (chain.ok() && *chain) {
            std::move(**chain).abandon();
        }
        return !chain.ok();
    }
    MockHost host_;
    std::unique_ptr<MockQueue> driver_;
    std::unique_ptr<Virtqueue> queue_;
};

TEST_F(SplitQueueTest, ChainIsPoppedWithItsBuffersAndUsed) {
    make(0);
    driver_->add({{kData, 4, false}, {kData + 100, 6, true}});
    ASSERT_TRUE(host_.memory().store<std::uint32_t>(memory::GuestAddress(kData), 77).ok());
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.ok() && *chain);
    EXPECT_EQ((*chain)->readable(), 4U);
    EXPECT_EQ((*chain)->writable(), 6U);
    EXPECT_EQ(*(*chain)->load<std::uint32_t>(0), 77U);
    EXPECT_TRUE((*chain)->store<std::uint32_t>(2, 5).ok());
    EXPECT_FALSE((*chain)->store<std::uint32_t>(3, 5).ok());
    queue_->push(std::move(**chain), 6);
    const auto used = driver_->take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->length, 6U);
    EXPECT_EQ(*host_.memory().load<std::uint32_t>(memory::GuestAddress(kData + 102)), 5U);
}

TEST_F(SplitQueueTest, EmptyQueuePopsNothing) {
    make(0);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.ok());
    EXPECT_FALSE(*chain);
}

TEST_F(SplitQueueTest, IndirectTableIsFollowed) {
    make(Feature::kIndirect);
    const Descriptor table[2] = {{kData, 4U, DescriptorFlags::kNext, std::uint16_t{1}},
                                 {kData + 8, 4U, DescriptorFlags::kWrite, std::uint16_t{0}}};
    ASSERT_TRUE(
        host_.memory().write(memory::GuestAddress(0x30000), std::as_bytes(std::span(table))).ok());
    driver_->descriptor(3, 0x30000, sizeof(table), DescriptorFlags::kIndirect, 0);
    driver_->publish(3);
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.ok() && *chain);
    EXPECT_EQ((*chain)->readable() + (*chain)->writable(), 8U);
    queue_->push(std::move(**chain), 0);
    EXPECT_EQ(driver_->take_used()->id, 3U);
}

TEST_F(SplitQueueTest, IndirectWithoutTheFeatureIsRejected) {
    make(0);
    driver_->descriptor(0, 0x30000, 16, DescriptorFlags::kIndirect, 0);
    driver_->publish(0);
    EXPECT_TRUE(pop_fails());
}

TEST_F(SplitQueueTest, LoopIsRejected) {
    make(0);
    driver_->descriptor(0, kData, 4, DescriptorFlags::kNext, 1);
    driver_->descriptor(1, kData, 4, DescriptorFlags::kNext, 0);
    driver_->publish(0);
    EXPECT_TRUE(pop_fails());
}

TEST_F(SplitQueueTest, HeadOutOfRangeIsRejected) {
    make(0);
    driver_->publish(8);
    EXPECT_TRUE(pop_fails());
}

TEST_F(SplitQueueTest, ReadableAfterWritableIsRejected) {
    make(0);
    driver_->add({{kData, 4, true}, {kData, 4, false}});
    EXPECT_TRUE(pop_fails());
}

TEST_F(SplitQueueTest, MorePublishedThanPlacesIsRejected) {
    make(0);
    for (int count = 0; count < 9; ++count) {
        driver_->publish(0);
    }
    EXPECT_TRUE(pop_fails());
}

TEST_F(SplitQueueTest, BufferOutsideRamIsAnErrorOnAccess) {
    make(0);
    driver_->add({{~0ULL - 2, 8, false}});
    auto chain = queue_->pop();
    ASSERT_TRUE(chain.ok() && *chain);
    EXPECT_FALSE((*chain)->load<std::uint64_t>(0).ok());
    queue_->push(std::move(**chain), 0);
}

TEST_F(SplitQueueTest, EventIndexDecidesAboutInterrupts) {
    make(Feature::kEventIndex);
    driver_->set_used_event(1);
    for (int count = 0; count < 2; ++count) {
        driver_->add({{kData, 4, true}});
    }
    queue_->push(std::move(**queue_->pop()), 0);
    EXPECT_FALSE(queue_->should_interrupt());
    queue_->push(std::move(**queue_->pop()), 0);
    EXPECT_TRUE(queue_->should_interrupt());
    EXPECT_FALSE(queue_->should_interrupt());
}

TEST_F(SplitQueueTest, NoInterruptFlagIsHonoured) {
    make(0);
    driver_->set_available_flags(1);
    driver_->add({{kData, 4, true}});
    queue_->push(std::move(**queue_->pop()), 0);
    EXPECT_FALSE(queue_->should_interrupt());
}

TEST_F(SplitQueueTest, EnablingNotificationsSeesALateChain) {
    make(Feature::kEventIndex);
    EXPECT_FALSE(queue_->enable_notifications());
    driver_->add({{kData, 4, true}});
    EXPECT_TRUE(queue_->enable_notifications());
    EXPECT_EQ(driver_->avail_event(), 0U);
}

TEST_F(SplitQueueTest, UnpoppedChainComesAgain) {
    make(0);
    driver_->add({{kData, 4, true}});
    queue_->unpop(std::move(**queue_->pop()));
    auto again = queue_->pop();
    ASSERT_TRUE(again.ok() && *again);
    queue_->push(std::move(**again), 0);
    EXPECT_EQ(queue_->in_flight(), 0U);
}

TEST_F(SplitQueueTest, MisalignedOrOutlyingRingIsRefused) {
    EXPECT_FALSE(make_virtqueue(host_.memory(),
                                {8, memory::GuestAddress(8), memory::GuestAddress(0x1000),
                                 memory::GuestAddress(0x2000)},
                                0)
                     .ok());
    EXPECT_FALSE(make_virtqueue(host_.memory(),
                                {8, memory::GuestAddress(0xfffff0), memory::GuestAddress(0x1000),
                                 memory::GuestAddress(0x2000)},
                                0)
                     .ok());
    EXPECT_FALSE(make_virtqueue(host_.memory(),
                                {7, memory::GuestAddress(0), memory::GuestAddress(0x1000),
                                 memory::GuestAddress(0x2000)},
                                0)
                     .ok());
}

TEST_F(SplitQueueTest, LoadedQueueContinues) {
    make(0);
    driver_->add({{kData, 4, true}});
    queue_->push(std::move(**queue_->pop()), 0);
    state::StateWriter writer;
    writer.begin("q", 1);
    queue_->save(writer);
    writer.end();
    auto fresh = make_virtqueue(host_.memory(), driver_->setup(), 0);
    ASSERT_TRUE(fresh.ok());
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(reader.begin("q", 1).ok());
    (*fresh)->load(reader);
    ASSERT_TRUE(reader.end().ok());
    driver_->add({{kData, 8, true}});
    auto chain = (*fresh)->pop();
    ASSERT_TRUE(chain.ok() && *chain);
    EXPECT_EQ((*chain)->writable(), 8U);
    (*fresh)->push(std::move(**chain), 3);
    (void)driver_->take_used();
    EXPECT_EQ(driver_->take_used()->length, 3U);
}

}  // namespace
}  // namespace strata::virtio
