// NetDevice: frames in both directions, merged buffers, checksums, control commands, state.
#include "virtio/net/net.h"

#include <deque>

#include <gtest/gtest.h>

#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kData = 0x50000;

class FakeBackend final : public net::NetBackend {
  public:
    void attach(std::function<void()> readable) override { readable_ = std::move(readable); }
    void send(std::span<const std::byte> frame) override {
        sent.emplace_back(frame.begin(), frame.end());
    }
    [[nodiscard]] std::optional<std::span<const std::byte>> peek() const override {
        return waiting.empty() ? std::nullopt
                               : std::optional(std::span<const std::byte>(waiting.front()));
    }
    void pop() override { waiting.pop_front(); }
    [[nodiscard]] bool checksums_good() const override { return true; }
    [[nodiscard]] net::NetCounters counters() const override { return {}; }
    void arrive(std::size_t size) {
        waiting.emplace_back(size, static_cast<std::byte>(size));
        readable_();
    }
    std::vector<std::vector<std::byte>> sent;
    std::deque<std::vector<std::byte>> waiting;

  private:
    std::function<void()> readable_;
};

class NetDeviceTest : public testing::Test {
  protected:
    void SetUp() override {
        loop_ = io::EventLoop::create().value();
        make();
    }
    void make() {
        auto backend = std::make_unique<FakeBackend>();
        backend_ = backend.get();
        device_ = std::make_unique<NetDevice>(NetDeviceConfig{}, std::move(backend), *loop_);
        device_->attach(host_);
    }
    void activate(std::uint64_t features) {
        ASSERT_TRUE(
            device_->activate({features, {receive_.setup(), transmit_.setup(), control_.setup()}})
                .ok());
        run_posted(*loop_);
    }
    void kick(unsigned queue) {
        device_->notify(queue);
        run_posted(*loop_);
    }
    template <typename T>
    T load(std::uint64_t address) {
        return *host_.memory().load<T>(memory::GuestAddress(address));
    }
    template <typename T>
    void store(std::uint64_t address, const T& value) {
        ASSERT_TRUE(host_.memory().store(memory::GuestAddress(address), value).ok());
    }
    MockHost host_;
    MockQueue receive_{host_.memory(), 0x10000, 16};
    MockQueue transmit_{host_.memory(), 0x20000, 16};
    MockQueue control_{host_.memory(), 0x30000, 16};
    std::unique_ptr<io::EventLoop> loop_;
    FakeBackend* backend_ = nullptr;
    std::unique_ptr<NetDevice> device_;
};

TEST_F(NetDeviceTest, FrameIsSentWithoutItsHeader) {
    activate(0);
    store<std::uint8_t>(kData + 12, 0xab);
    transmit_.add({{kData, 12, false}, {kData + 12, 60, false}});
    kick(1);
    ASSERT_EQ(backend_->sent.size(), 1U);
    EXPECT_EQ(backend_->sent[0].size(), 60U);
    EXPECT_EQ(backend_->sent[0][0], std::byte{0xab});
    EXPECT_TRUE(transmit_.take_used());
}

TEST_F(NetDeviceTest, FrameArrivesBehindItsHeader) {
    activate(net_wire::Features::kGuestChecksum);
    receive_.add({{kData, 2048, true}});
    backend_->arrive(100);
    run_posted(*loop_);
    EXPECT_EQ(receive_.take_used()->length, 112U);
    EXPECT_EQ(load<net_wire::Header>(kData).buffers, 1U);
    EXPECT_EQ(load<net_wire::Header>(kData).flags, net_wire::HeaderFlags::kDataValid);
    EXPECT_EQ(load<std::uint8_t>(kData + 12), 100);
    EXPECT_EQ(host_.queue_interrupts, 1U);
}

TEST_F(NetDeviceTest, LargeFrameIsMergedFromSeveralBuffers) {
    activate(net_wire::Features::kMergeReceive);
    receive_.add({{kData, 64, true}});
    backend_->arrive(100);
    run_posted(*loop_);
    EXPECT_FALSE(receive_.take_used());
    receive_.add({{kData + 0x1000, 64, true}});
    kick(0);
    EXPECT_EQ(receive_.take_used()->length, 64U);
    EXPECT_EQ(receive_.take_used()->length, 48U);
    EXPECT_EQ(load<net_wire::Header>(kData).buffers, 2U);
    EXPECT_TRUE(backend_->waiting.empty());
}

TEST_F(NetDeviceTest, FrameTooLargeForABufferIsDropped) {
    activate(0);
    receive_.add({{kData, 64, true}});
    backend_->arrive(100);
    backend_->arrive(20);
    run_posted(*loop_);
    EXPECT_EQ(receive_.take_used()->length, 32U);
    EXPECT_FALSE(receive_.take_used());
}

TEST_F(NetDeviceTest, FramesWaitForBuffers) {
    activate(0);
    backend_->arrive(50);
    run_posted(*loop_);
    EXPECT_EQ(backend_->waiting.size(), 1U);
    receive_.add({{kData, 2048, true}});
    kick(0);
    EXPECT_EQ(receive_.take_used()->length, 62U);
}

TEST_F(NetDeviceTest, ChecksumIsFilledIn) {
    activate(net_wire::Features::kChecksum);
    net_wire::Header header{};
    header.flags = net_wire::HeaderFlags::kNeedsChecksum;
    header.checksum_start = std::uint16_t{14};
    header.checksum_offset = std::uint16_t{2};
    store(kData, header);
    store<Be16>(kData + 12 + 14, Be16(0x1234));
    transmit_.add({{kData, 12 + 60, false}});
    kick(1);
    ASSERT_EQ(backend_->sent.size(), 1U);
    EXPECT_EQ(backend_->sent[0][16], std::byte{0xed});
    EXPECT_EQ(backend_->sent[0][17], std::byte{0xcb});
}

TEST_F(NetDeviceTest, ChecksumOutsideTheFrameDropsIt) {
    std::vector<std::byte> frame(20);
    EXPECT_FALSE(fill_checksum(frame, 20, 0));
    EXPECT_FALSE(fill_checksum(frame, 0, 19));
    EXPECT_FALSE(fill_checksum(frame, 19, 0));
    EXPECT_TRUE(fill_checksum(frame, 0, 18));
}

TEST_F(NetDeviceTest, MacIsSetByControl) {
    activate(net_wire::Features::kControl);
    const std::uint8_t command[8] = {1, 1, 2, 3, 4, 5, 6, 7};
    store(kData, command);
    control_.add({{kData, 8, false}, {kData + 100, 1, true}});
    kick(2);
    EXPECT_EQ(load<std::uint8_t>(kData + 100), 0);
    MacAddress mac{};
    device_->read_config(0, std::as_writable_bytes(std::span(mac)));
    EXPECT_EQ(mac, (MacAddress{2, 3, 4, 5, 6, 7}));
    const std::uint8_t unknown[3] = {9, 9, 9};
    store(kData, unknown);
    control_.add({{kData, 3, false}, {kData + 100, 1, true}});
    kick(2);
    EXPECT_EQ(load<std::uint8_t>(kData + 100), 1);
}

TEST_F(NetDeviceTest, TinyReceiveBufferNeedsAReset) {
    activate(0);
    receive_.add({{kData, 4, true}});
    backend_->arrive(50);
    run_posted(*loop_);
    EXPECT_TRUE(host_.needs_reset);
}

TEST_F(NetDeviceTest, PulledCableDropsAndTells) {
    activate(net_wire::Features::kStatus);
    device_->set_link(false);
    backend_->arrive(50);
    run_posted(*loop_);
    EXPECT_TRUE(backend_->waiting.empty());
    EXPECT_EQ(host_.config_interrupts, 1U);
}

TEST_F(NetDeviceTest, LoadedDeviceContinues) {
    activate(0);
    receive_.add({{kData, 2048, true}});
    backend_->arrive(50);
    run_posted(*loop_);
    (void)receive_.take_used();
    ASSERT_TRUE(device_->pause().ok());
    state::StateWriter writer;
    ASSERT_TRUE(device_->save(writer).ok());
    make();
    ASSERT_TRUE(device_->pause().ok());
    activate(0);
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(device_->load(reader).ok());
    ASSERT_TRUE(device_->resume().ok());
    receive_.add({{kData, 2048, true}});
    backend_->arrive(60);
    run_posted(*loop_);
    EXPECT_EQ(receive_.take_used()->length, 72U);
}

}  // namespace
}  // namespace strata::virtio
