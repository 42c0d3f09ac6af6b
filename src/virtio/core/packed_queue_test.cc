// PackedQueue: rounds, chains, events, and drivers that break the rules, with a small driver beside
// it.
#include "virtio/core/packed_queue.h"

#include <gtest/gtest.h>

#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kRing = 0x10000;
constexpr std::uint64_t kDriverEvent = 0x12000;
constexpr std::uint64_t kDeviceEvent = 0x12010;
constexpr std::uint64_t kData = 0x20000;
constexpr std::uint16_t kSize = 6;  // not a power of two: packed rings may be

struct Wire {
    Le64 address;
    Le32 length;
    Le16 id;
    Le16 flags;
};

/// The driver's end: in order, one chain after the other.
class PackedDriver {
  public:
    explicit PackedDriver(const memory::GuestMemory& memory) : memory_(memory) {}
    void add(const std::vector<MockBuffer>& buffers, std::uint16_t id) {
        std::vector<std::pair<std::uint16_t, Wire>> made;
        for (std::size_t at = 0; at < buffers.size(); ++at) {
            std::uint16_t flags = wrap_ ? 1U << 7 : 1U << 15;
            flags |= buffers[at].writable ? DescriptorFlags::kWrite : std::uint16_t{0};
            flags |= at + 1 < buffers.size() ? DescriptorFlags::kNext : std::uint16_t{0};
            made.push_back({next_, Wire{buffers[at].address, buffers[at].length, id, flags}});
            next_ = static_cast<std::uint16_t>((next_ + 1) % kSize);
            wrap_ = next_ == 0 ? !wrap_ : wrap_;
        }
        for (auto each = made.rbegin(); each != made.rend(); ++each) {
            STRATA_CHECK(memory_.store(place(each->first), each->second).ok(), "ring");
        }
    }
    /// The used descriptor of a chain of `places`, if it is there.
    std::optional<Wire> take_used(unsigned places) {
        const auto wire = *memory_.load<Wire>(place(seen_));
        const bool available = (wire.flags & (1U << 7)) != 0;
        const bool used = (wire.flags & (1U << 15)) != 0;
        if (available != used || used != seen_wrap_) {
            return std::nullopt;
        }
        const unsigned next = seen_ + places;
        seen_wrap_ = next >= kSize ? !seen_wrap_ : seen_wrap_;
        seen_ = static_cast<std::uint16_t>(next % kSize);
        return wire;
    }

  private:
    static memory::GuestAddress place(std::uint16_t index) {
        return memory::GuestAddress(kRing + 16ULL * index);
    }
    const memory::GuestMemory& memory_;
    std::uint16_t next_ = 0;
    bool wrap_ = true;
    std::uint16_t seen_ = 0;
    bool seen_wrap_ = true;
};

class PackedQueueTest : public testing::Test {
  protected:
    void make(std::uint64_t features) {
        auto made =
            make_virtqueue(host_.memory(),
                           {kSize, memory::GuestAddress(kRing), memory::GuestAddress(kDriverEvent),
                            memory::GuestAddress(kDeviceEvent)},
                           features | Feature::kRingPacked);
        ASSERT_TRUE(made.ok());
        queue_ = std::move(made).value();
    }
    DescriptorChain pop() { return std::move(**queue_->pop()); }
    void set_driver_event(std::uint16_t position, std::uint16_t flags) {
        ASSERT_TRUE(host_.memory().store(memory::GuestAddress(kDriverEvent), Le16(position)).ok());
        ASSERT_TRUE(host_.memory().store(memory::GuestAddress(kDriverEvent + 2), Le16(flags)).ok());
    }
    MockHost host_;
    PackedDriver driver_{host_.memory()};
    std::unique_ptr<Virtqueue> queue_;
};

TEST_F(PackedQueueTest, ManyRoundsOfChainsComeBack) {
    make(0);
    for (std::uint16_t round = 0; round < 50; ++round) {
        driver_.add({{kData, 4, false}, {kData + 16, 8, true}}, round);
        auto chain = queue_->pop();
        ASSERT_TRUE(chain.ok() && *chain) << round;
        EXPECT_EQ((*chain)->readable(), 4U);
        EXPECT_EQ((*chain)->writable(), 8U);
        queue_->push(std::move(**chain), 3);
        const auto used = driver_.take_used(2);
        ASSERT_TRUE(used) << round;
        EXPECT_EQ(used->id, round);
        EXPECT_EQ(used->length, 3U);
        EXPECT_FALSE(*queue_->pop());
    }
}

TEST_F(PackedQueueTest, ChainsMayComeBackInAnotherOrder) {
    make(0);
    driver_.add({{kData, 4, true}}, 1);
    driver_.add({{kData, 4, true}, {kData, 4, true}}, 2);
    auto first = pop();
    auto second = pop();
    queue_->push(std::move(second), 8);
    EXPECT_EQ(driver_.take_used(2)->id, 2U);
    queue_->push(std::move(first), 4);
    EXPECT_EQ(driver_.take_used(1)->id, 1U);
}

TEST_F(PackedQueueTest, StagedChainsAppearTogether) {
    make(0);
    driver_.add({{kData, 4, true}}, 1);
    driver_.add({{kData, 4, true}}, 2);
    auto first = pop();
    auto second = pop();
    queue_->stage(std::move(first), 4);
    queue_->stage(std::move(second), 4);
    EXPECT_FALSE(driver_.take_used(1));
    queue_->publish();
    EXPECT_TRUE(driver_.take_used(1));
    EXPECT_TRUE(driver_.take_used(1));
}

TEST_F(PackedQueueTest, UnpoppedChainComesAgainAcrossTheWrap) {
    make(0);
    for (std::uint16_t round = 0; round < 5; ++round) {
        driver_.add({{kData, 4, true}}, round);
        queue_->push(pop(), 0);
    }
    driver_.add({{kData, 4, true}, {kData, 8, true}}, 77);
    queue_->unpop(pop());
    auto again = pop();
    EXPECT_EQ(again.writable(), 12U);
    queue_->push(std::move(again), 0);
}

TEST_F(PackedQueueTest, EventPositionDecidesAboutInterrupts) {
    make(Feature::kEventIndex);
    set_driver_event(1 | 1U << 15, 2);
    driver_.add({{kData, 4, true}}, 0);
    driver_.add({{kData, 4, true}}, 1);
    queue_->push(pop(), 0);
    EXPECT_FALSE(queue_->should_interrupt());
    queue_->push(pop(), 0);
    EXPECT_TRUE(queue_->should_interrupt());
    set_driver_event(0, 1);
    driver_.add({{kData, 4, true}}, 2);
    queue_->push(pop(), 0);
    EXPECT_FALSE(queue_->should_interrupt());
    set_driver_event(0, 0);
    driver_.add({{kData, 4, true}}, 3);
    queue_->push(pop(), 0);
    EXPECT_TRUE(queue_->should_interrupt());
}

TEST_F(PackedQueueTest, EndlessChainIsRejected) {
    make(0);
    for (std::uint16_t index = 0; index < kSize; ++index) {
        ASSERT_TRUE(host_.memory()
                        .store(memory::GuestAddress(kRing + 16ULL * index),
                               Wire{kData, 4U, std::uint16_t{0},
                                    static_cast<std::uint16_t>(1U << 7 | DescriptorFlags::kNext)})
                        .ok());
    }
    EXPECT_FALSE(queue_->pop().ok());
}

TEST_F(PackedQueueTest, IndirectTableIsTakenWhole) {
    make(Feature::kIndirect);
    const Wire table[2] = {{kData, 4U, std::uint16_t{0}, std::uint16_t{0}},
                           {kData + 8, 4U, std::uint16_t{0}, DescriptorFlags::kWrite}};
    ASSERT_TRUE(
        host_.memory().write(memory::GuestAddress(0x30000), std::as_bytes(std::span(table))).ok());
    ASSERT_TRUE(host_.memory()
                    .store(memory::GuestAddress(kRing),
                           Wire{0x30000ULL, 32U, std::uint16_t{9},
                                static_cast<std::uint16_t>(1U << 7 | DescriptorFlags::kIndirect)})
                    .ok());
    auto chain = pop();
    EXPECT_EQ(chain.readable(), 4U);
    EXPECT_EQ(chain.writable(), 4U);
    queue_->push(std::move(chain), 4);
    EXPECT_EQ(driver_.take_used(1)->id, 9U);
}

TEST_F(PackedQueueTest, LoadedQueueContinues) {
    make(0);
    for (std::uint16_t round = 0; round < 4; ++round) {
        driver_.add({{kData, 4, true}, {kData, 4, true}}, round);
        queue_->push(pop(), 0);
        EXPECT_TRUE(driver_.take_used(2));
    }
    state::StateWriter writer;
    writer.begin("q", 1);
    queue_->save(writer);
    writer.end();
    make(0);
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(reader.begin("q", 1).ok());
    queue_->load(reader);
    ASSERT_TRUE(reader.end().ok());
    driver_.add({{kData, 4, true}}, 42);
    queue_->push(pop(), 0);
    EXPECT_EQ(driver_.take_used(1)->id, 42U);
}

}  // namespace
}  // namespace strata::virtio
