// BlkDevice: requests from a mock driver against a file.
#include "virtio/blk/blk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "block/live_image.h"
#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kHeader = 0x40000;
constexpr std::uint64_t kStatus = 0x40100;
constexpr std::uint64_t kData = 0x50000;
constexpr std::uint64_t kFeatures = Feature::kVersion1 | blk::Features::kFlush;

class BlkTest : public testing::Test {
  protected:
    void SetUp() override {
        path_ = testing::TempDir() + "blk-" + std::to_string(::getpid()) + ".raw";
        const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
        ASSERT_EQ(::ftruncate(fd.get(), 1 << 20), 0);
        loop_ = io::EventLoop::create().value();
        make(false);
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    void make(bool read_only) {
        device_.reset();
        block::DiskOptions options;
        options.path = path_;
        options.read_only = read_only;
        auto image = block::open_disk(std::move(options));
        ASSERT_TRUE(image.ok()) << image.error().text();
        auto device = BlkDevice::create({.serial = "strata-1"}, std::move(image).value(), *loop_);
        ASSERT_TRUE(device.ok());
        device_ = std::move(device).value();
        device_->attach(host_);
    }
    void activate(std::uint64_t features = kFeatures) {
        driver_ = std::make_unique<MockQueue>(host_.memory(), next_ring_, 16);
        next_ring_ += 0x1000;
        ASSERT_TRUE(device_->activate({features, {driver_->setup()}}).ok());
    }
    void put(std::uint32_t type, std::uint64_t sector, const std::vector<MockBuffer>& data) {
        ASSERT_TRUE(host_.memory()
                        .store(memory::GuestAddress(kHeader), blk::RequestHeader{type, 0U, sector})
                        .ok());
        ASSERT_TRUE(host_.memory().store<std::uint8_t>(memory::GuestAddress(kStatus), 0xee).ok());
        std::vector<MockBuffer> buffers{{kHeader, 16, false}};
        buffers.insert(buffers.end(), data.begin(), data.end());
        buffers.push_back({kStatus, 1, true});
        driver_->add(buffers);
        device_->notify(0);
    }
    int status() { return *host_.memory().load<std::uint8_t>(memory::GuestAddress(kStatus)); }
    int run(std::uint32_t type, std::uint64_t sector, const std::vector<MockBuffer>& data) {
        put(type, sector, data);
        for (int round = 0; round < 200 && !(used_ = driver_->take_used()); ++round) {
            loop_->run_once(std::chrono::milliseconds(20));
        }
        return used_ ? status() : -1;
    }
    template <typename T>
    void store(std::uint64_t address, const T& value) {
        ASSERT_TRUE(host_.memory().store(memory::GuestAddress(address), value).ok());
    }

    std::string path_;
    MockHost host_;
    std::uint64_t next_ring_ = 0x10000;
    std::unique_ptr<MockQueue> driver_;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<BlkDevice> device_;
    std::optional<UsedElement> used_;
};

TEST_F(BlkTest, WrittenSectorsAreReadBack) {
    activate();
    store<std::uint64_t>(kData + 512, 0x1122334455667788);
    EXPECT_EQ(run(1, 3, {{kData, 1024, false}}), 0);
    EXPECT_EQ(used_->length, 1U);
    EXPECT_EQ(run(0, 4, {{kData + 0x1000, 100, true}, {kData + 0x2000, 412, true}}), 0);
    EXPECT_EQ(used_->length, 513U);
    EXPECT_EQ(*host_.memory().load<std::uint64_t>(memory::GuestAddress(kData + 0x1000)),
              0x1122334455667788U);
    EXPECT_EQ(run(4, 0, {}), 0);
    EXPECT_GT(host_.queue_interrupts, 0U);
}

TEST_F(BlkTest, IdIsTheSerial) {
    activate();
    EXPECT_EQ(run(8, 0, {{kData, 20, true}}), 0);
    EXPECT_EQ(*host_.memory().load<char>(memory::GuestAddress(kData + 7)), '1');
}

TEST_F(BlkTest, ZeroesAndDiscardTakeRanges) {
    activate();
    store<std::uint64_t>(kData, ~0ULL);
    EXPECT_EQ(run(1, 0, {{kData, 512, false}}), 0);
    store(kData + 0x1000, blk::Segment{0ULL, 1U, 1U});
    EXPECT_EQ(run(13, 0, {{kData + 0x1000, 16, false}}), 0);
    EXPECT_EQ(run(0, 0, {{kData, 512, true}}), 0);
    EXPECT_EQ(*host_.memory().load<std::uint64_t>(memory::GuestAddress(kData)), 0U);
    EXPECT_EQ(run(11, 0, {{kData + 0x1000, 16, false}}), 2);  // unmap flag is not for discards
    store(kData + 0x1000, blk::Segment{2048ULL, 1U, 0U});
    EXPECT_EQ(run(11, 0, {{kData + 0x1000, 16, false}}), 1);
}

TEST_F(BlkTest, RequestsThatCannotBeAreAnsweredWithErrors) {
    activate();
    EXPECT_EQ(run(0, 2048, {{kData, 512, true}}), 1);
    EXPECT_EQ(run(0, ~0ULL, {{kData, 512, true}}), 1);
    EXPECT_EQ(run(0, 0, {{kData, 100, true}}), 1);
    EXPECT_EQ(run(0, 0, {{1ULL << 40, 512, true}}), 1);
    EXPECT_EQ(run(77, 0, {}), 2);
    EXPECT_FALSE(host_.needs_reset);
}

TEST_F(BlkTest, RequestWithoutStatusNeedsAReset) {
    activate();
    driver_->add({{kHeader, 16, false}});
    device_->notify(0);
    run_posted(*loop_);
    EXPECT_TRUE(host_.needs_reset);
}

TEST_F(BlkTest, ReadOnlyDiskFailsWrites) {
    make(true);
    EXPECT_NE(device_->offered_features() & blk::Features::kReadOnly, 0U);
    activate();
    EXPECT_EQ(run(1, 0, {{kData, 512, false}}), 1);
    EXPECT_EQ(run(0, 0, {{kData, 512, true}}), 0);
}

TEST_F(BlkTest, DriverWithoutFlushGetsDurableWrites) {
    activate(Feature::kVersion1);
    EXPECT_EQ(run(1, 0, {{kData, 512, false}}), 0);
}

TEST_F(BlkTest, ResetWithRequestsUnderWayBecomesIdle) {
    activate();
    for (int count = 0; count < 4; ++count) {
        put(0, 0, {{kData, 4096, true}});
    }
    loop_->run_once(std::chrono::milliseconds(0));
    device_->reset();
    for (int round = 0; round < 100 && !device_->idle(); ++round) {
        loop_->run_once(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(device_->idle());
    activate();
    EXPECT_EQ(run(0, 0, {{kData, 512, true}}), 0);
}

TEST_F(BlkTest, PauseCompletesRequestsAndStateContinues) {
    activate();
    put(0, 0, {{kData, 4096, true}});
    loop_->run_once(std::chrono::milliseconds(0));
    ASSERT_TRUE(device_->pause().ok());
    EXPECT_TRUE(driver_->take_used());
    state::StateWriter writer;
    ASSERT_TRUE(device_->save(writer).ok());
    const auto setup = driver_->setup();
    make(false);
    ASSERT_TRUE(device_->pause().ok());
    ASSERT_TRUE(device_->activate({kFeatures, {setup}}).ok());
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(device_->load(reader).ok());
    ASSERT_TRUE(device_->resume().ok());
    EXPECT_EQ(run(0, 0, {{kData, 512, true}}), 0);
}

TEST_F(BlkTest, GrownDiskTellsItsDriver) {
    activate();
    EXPECT_EQ(run(0, 4095, {{kData, 512, true}}), 1);
    block::LiveImage* image = block::live_image(device_->disk());
    ASSERT_NE(image, nullptr);
    Result<> grown = Error{ErrorKind::Failed, "not asked"};
    image->grow(2 << 20, [&](Result<> done) { grown = std::move(done); });
    ASSERT_TRUE(grown.ok());
    image->settle_size(2 << 20);
    image->grow(1 << 20, [&](Result<> done) { grown = std::move(done); });
    EXPECT_FALSE(grown.ok());
    image->settle_size(1 << 20);
    const auto generation = device_->config_generation();
    device_->size_changed();
    EXPECT_EQ(host_.config_interrupts, 1U);
    EXPECT_NE(device_->config_generation(), generation);
    std::uint64_t capacity = 0;
    device_->read_config(0, std::as_writable_bytes(std::span(&capacity, 1)));
    EXPECT_EQ(capacity, 4096U);
    EXPECT_EQ(run(0, 4095, {{kData, 512, true}}), 0);
}

TEST_F(BlkTest, ImageIsExchangedUnderRequests) {
    activate();
    store(kData, std::uint64_t{0x1234});
    EXPECT_EQ(run(1, 7, {{kData, 512, false}}), 0);
    put(0, 0, {{kData, 4096, true}});
    loop_->run_once(std::chrono::milliseconds(0));
    block::LiveImage* image = block::live_image(device_->disk());
    ASSERT_EQ(image->live(), nullptr);
    auto graph = image->as_graph();
    ASSERT_TRUE(graph.ok()) << graph.error().text();
    ASSERT_TRUE(device_->exchange_image(std::move(graph).value()).ok());
    EXPECT_TRUE(driver_->take_used());
    ASSERT_NE(block::live_image(device_->disk())->live(), nullptr);
    store(kData, std::uint64_t{0});
    EXPECT_EQ(run(0, 7, {{kData, 512, true}}), 0);
    EXPECT_EQ(*host_.memory().load<std::uint64_t>(memory::GuestAddress(kData)), 0x1234U);
}

TEST_F(BlkTest, ConfigurationShowsTheCapacity) {
    std::uint64_t capacity = 0;
    device_->read_config(0, std::as_writable_bytes(std::span(&capacity, 1)));
    EXPECT_EQ(capacity, 2048U);
    std::uint32_t past = 1;
    device_->read_config(4000, std::as_writable_bytes(std::span(&past, 1)));
    EXPECT_EQ(past, 0U);
}

}  // namespace
}  // namespace strata::virtio
