// VirtioPciTransport: the registers as a driver uses them, with the rng device behind.
#include "virtio/transport/pci/virtio_pci.h"

#include <gtest/gtest.h>

#include "virtio/core/mock_queue.h"
#include "virtio/rng/rng.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kRings = 0x10000;
constexpr std::uint64_t kData = 0x20000;

struct Line final : bus::IrqLine {
    void set(bool asserted) override { level = asserted; }
    bool level = false;
};
struct Sink final : bus::MsiSink {
    void send(const bus::MsiMessage& message) override { sent.push_back(message); }
    std::vector<bus::MsiMessage> sent;
};

class VirtioPciTest : public testing::Test {
  protected:
    void SetUp() override {
        loop_ = io::EventLoop::create().value();
        transport_ = make();
    }
    std::unique_ptr<VirtioPciTransport> make() {
        auto made = std::make_unique<VirtioPciTransport>(
            std::make_unique<RngDevice>(RngConfig{}, *loop_), host_.memory());
        made->connect(sink_, line_);
        return made;
    }
    template <typename T>
    T get(std::uint64_t offset) {
        T value{};
        transport_->bar_read(0, offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <typename T>
    void set(std::uint64_t offset, T value) {
        transport_->bar_write(0, offset, std::as_bytes(std::span(&value, 1)));
    }
    std::uint8_t status() { return get<std::uint8_t>(0x14); }
    void negotiate(std::uint32_t low, std::uint32_t high) {
        set<std::uint8_t>(0x14, 0);
        set<std::uint8_t>(0x14, 1);
        set<std::uint8_t>(0x14, 3);
        set<std::uint32_t>(8, 0);
        set<std::uint32_t>(12, low);
        set<std::uint32_t>(8, 1);
        set<std::uint32_t>(12, high);
        set<std::uint8_t>(0x14, 11);
    }
    void start() {
        negotiate(0, 1);
        set_queue(driver_.setup());
        set<std::uint8_t>(0x14, 15);
    }
    void set_queue(const QueueSetup& setup) {
        set<std::uint16_t>(0x16, 0);
        set<std::uint16_t>(0x18, setup.size);
        set<std::uint64_t>(0x20, setup.descriptors.value());
        set<std::uint32_t>(0x28, static_cast<std::uint32_t>(setup.driver.value()));
        set<std::uint32_t>(0x2c, 0);
        set<std::uint64_t>(0x30, setup.device.value());
        set<std::uint16_t>(0x1c, 1);
    }
    void request() {
        driver_.add({{kData, 32, true}});
        set<std::uint16_t>(0x3000, 0);
        run_posted(*loop_);
    }

    MockHost host_;
    MockQueue driver_{host_.memory(), kRings, 16};
    Line line_;
    Sink sink_;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<VirtioPciTransport> transport_;
};

TEST_F(VirtioPciTest, DriverGetsRandomBytesAndAnInterrupt) {
    start();
    EXPECT_EQ(status(), 15);
    request();
    EXPECT_EQ(driver_.take_used()->length, 32U);
    EXPECT_TRUE(line_.level);
    EXPECT_EQ(get<std::uint8_t>(0x1000), 1);
    EXPECT_FALSE(line_.level);
    EXPECT_EQ(get<std::uint8_t>(0x1000), 0);
}

TEST_F(VirtioPciTest, UnknownFeatureIsNotAccepted) {
    negotiate(1U << 5, 1);
    EXPECT_EQ(status() & DeviceStatus::kFeaturesOk, 0);
    negotiate(0, 0);
    EXPECT_EQ(status() & DeviceStatus::kFeaturesOk, 0);
}

TEST_F(VirtioPciTest, BadDescriptorMakesTheDeviceNeedAReset) {
    start();
    driver_.publish(99);
    set<std::uint16_t>(0x3000, 0);
    run_posted(*loop_);
    EXPECT_NE(status() & DeviceStatus::kNeedsReset, 0);
    set<std::uint8_t>(0x14, 0);
    EXPECT_EQ(status(), 0);
    driver_ = MockQueue(host_.memory(), kRings + 0x4000, 16);
    start();
    request();
    EXPECT_TRUE(driver_.take_used());
}

TEST_F(VirtioPciTest, QueueOutsideRamNeedsAReset) {
    negotiate(0, 1);
    set_queue({16, memory::GuestAddress(1ULL << 40), memory::GuestAddress(0),
               memory::GuestAddress(0x1000)});
    set<std::uint8_t>(0x14, 15);
    EXPECT_NE(status() & DeviceStatus::kNeedsReset, 0);
}

TEST_F(VirtioPciTest, MsixVectorOfTheQueueIsSent) {
    std::uint16_t enable = 0x8000;
    unsigned capability = 0;
    for (std::uint8_t at = 0x34;;) {
        std::uint8_t next = 0;
        transport_->config_read(at, std::as_writable_bytes(std::span(&next, 1)));
        std::uint8_t id = 0;
        transport_->config_read(next, std::as_writable_bytes(std::span(&id, 1)));
        if (id == pci::Msix::kCapabilityId) {
            capability = next;
            break;
        }
        at = static_cast<std::uint8_t>(next + 1);
    }
    transport_->config_write(capability + 2, std::as_bytes(std::span(&enable, 1)));
    set<std::uint32_t>(0x4010, 0xfee00000);
    set<std::uint32_t>(0x4018, 0x55);
    set<std::uint32_t>(0x401c, 0);
    negotiate(0, 1);
    set<std::uint16_t>(0x16, 0);
    set<std::uint16_t>(0x1a, 7);
    EXPECT_EQ(get<std::uint16_t>(0x1a), kNoVector);
    set<std::uint16_t>(0x1a, 1);
    set_queue(driver_.setup());
    set<std::uint8_t>(0x14, 15);
    request();
    ASSERT_EQ(sink_.sent.size(), 1U);
    EXPECT_EQ(sink_.sent[0].data, 0x55U);
    EXPECT_FALSE(line_.level);
}

TEST_F(VirtioPciTest, QueueResetStopsAndRestartsTheQueue) {
    negotiate(0, 1 | 1U << 8);
    set_queue(driver_.setup());
    set<std::uint8_t>(0x14, 15);
    request();
    EXPECT_TRUE(driver_.take_used());
    set<std::uint16_t>(0x3a, 1);
    EXPECT_EQ(get<std::uint16_t>(0x3a), 0);
    EXPECT_EQ(get<std::uint16_t>(0x1c), 0);
    request();
    EXPECT_FALSE(driver_.take_used());
    driver_ = MockQueue(host_.memory(), kRings + 0x4000, 16);
    set_queue(driver_.setup());
    request();
    EXPECT_TRUE(driver_.take_used());
}

TEST_F(VirtioPciTest, PciConfigWindowReachesTheBar) {
    std::uint8_t window = 0;
    for (std::uint8_t at = 0x34;; at = static_cast<std::uint8_t>(window + 1)) {
        transport_->config_read(at, std::as_writable_bytes(std::span(&window, 1)));
        std::uint8_t type = 0;
        transport_->config_read(window + 3U, std::as_writable_bytes(std::span(&type, 1)));
        if (type == PciCapabilityType::kPciConfig) {
            break;
        }
    }
    const std::uint32_t offset = 0x12;
    const std::uint32_t length = 2;
    transport_->config_write(window + 8U, std::as_bytes(std::span(&offset, 1)));
    transport_->config_write(window + 12U, std::as_bytes(std::span(&length, 1)));
    std::uint16_t queues = 0;
    transport_->config_read(window + 16U, std::as_writable_bytes(std::span(&queues, 1)));
    EXPECT_EQ(queues, 1);
}

TEST_F(VirtioPciTest, BrokenDeviceIsSavedAndStillNeedsItsReset) {
    start();
    driver_.add({{1ULL << 40, 32, true}});  // popped, then found to lie outside RAM
    set<std::uint16_t>(0x3000, 0);
    run_posted(*loop_);
    EXPECT_NE(status() & DeviceStatus::kNeedsReset, 0);
    ASSERT_TRUE(transport_->pause().ok());
    state::StateWriter writer;
    ASSERT_TRUE(transport_->save(writer).ok());
    transport_ = make();
    ASSERT_TRUE(transport_->pause().ok());
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(transport_->load(reader).ok());
    EXPECT_NE(status() & DeviceStatus::kNeedsReset, 0);
}

TEST_F(VirtioPciTest, LoadedTransportContinues) {
    start();
    request();
    (void)driver_.take_used();
    ASSERT_TRUE(transport_->pause().ok());
    state::StateWriter writer;
    ASSERT_TRUE(transport_->save(writer).ok());
    transport_ = make();
    ASSERT_TRUE(transport_->pause().ok());
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(transport_->load(reader).ok());
    EXPECT_TRUE(reader.at_end());
    driver_.add({{kData, 16, true}});
    run_posted(*loop_);
    EXPECT_FALSE(driver_.take_used());
    ASSERT_TRUE(transport_->resume().ok());
    run_posted(*loop_);
    EXPECT_EQ(driver_.take_used()->length, 16U);
    EXPECT_EQ(status(), 15);
}

}  // namespace
}  // namespace strata::virtio
