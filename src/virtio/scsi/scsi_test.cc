// ScsiDevice: commands from a mock driver against files, task management, events.
#include "virtio/scsi/scsi.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "block/live_image.h"
#include "scsi/cd_unit.h"
#include "scsi/disk_unit.h"
#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

using scsi_wire::Response;

constexpr std::uint64_t kRequest = 0x40000;
constexpr std::uint64_t kAnswer = 0x40200;
constexpr std::uint64_t kControl = 0x40400;
constexpr std::uint64_t kData = 0x50000;
constexpr std::uint64_t kEvents = 0x60000;
constexpr std::uint32_t kRequestSize = 19 + 32, kAnswerSize = 12 + 96;
constexpr std::uint64_t kFeatures =
    Feature::kVersion1 | scsi_wire::Features::kHotplug | scsi_wire::Features::kChange;

class ScsiTest : public testing::Test {
  protected:
    void SetUp() override {
        path_ = testing::TempDir() + "scsi-" + std::to_string(::getpid()) + ".raw";
        const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
        ASSERT_EQ(::ftruncate(fd.get(), 1 << 20), 0);
        loop_ = io::EventLoop::create().value();
        make();
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    std::unique_ptr<scsi::LogicalUnit> unit() {
        block::DiskOptions options;
        options.path = path_;
        options.lock = false;
        return scsi::DiskUnit::create({.serial = "strata-1"},
                                      block::open_disk(std::move(options)).value())
            .value();
    }
    void make() {
        device_ = ScsiDevice::create({.queues = 2}, *loop_).value();
        device_->attach(host_);
        ASSERT_TRUE(device_->plug(0, unit()).ok());
        ASSERT_TRUE(device_->plug(5, unit()).ok());
    }
    void activate() {
        Activation activation{kFeatures, {}};
        queues_.clear();
        for (int index = 0; index < 4; ++index) {
            queues_.emplace_back(host_.memory(), next_ring_, 16);
            next_ring_ += 0x1000;
            activation.queues.emplace_back(queues_.back().setup());
        }
        ASSERT_TRUE(device_->activate(activation).ok());
        setup_ = activation;
    }
    template <typename T>
    void store(std::uint64_t address, const T& value) {
        ASSERT_TRUE(host_.memory().store(memory::GuestAddress(address), value).ok());
    }
    template <typename T>
    T load(std::uint64_t address) {
        return *host_.memory().load<T>(memory::GuestAddress(address));
    }
    void put(std::uint8_t lun, std::initializer_list<std::uint8_t> cdb,
             std::vector<MockBuffer> data = {}, unsigned index = 2, std::uint8_t bus = 1) {
        const scsi_wire::RequestHeader header{{bus, 0, 0x40, lun, 0, 0, 0, 0}, Le64(77), 0, 0, 0};
        store(kRequest, header);
        std::array<std::uint8_t, 32> bytes{};
        std::copy(cdb.begin(), cdb.end(), bytes.begin());
        store(kRequest + sizeof(header), bytes);
        std::vector<MockBuffer> chain{{kRequest, kRequestSize, false}};
        const bool reads = !data.empty() && data.front().writable;
        if (!reads) {
            chain.insert(chain.end(), data.begin(), data.end());
        }
        chain.push_back({kAnswer, kAnswerSize, true});
        if (reads) {
            chain.insert(chain.end(), data.begin(), data.end());
        }
        queues_[index].add(chain);
        device_->notify(index);
    }
    bool wait_used(unsigned index) {
        used_.reset();
        for (int round = 0; round < 200 && !(used_ = queues_[index].take_used()); ++round) {
            loop_->run_once(std::chrono::milliseconds(20));
        }
        return used_.has_value();
    }
    /// The response, or -1; status_ and sense_ are set.
    int run(std::uint8_t lun, std::initializer_list<std::uint8_t> cdb,
            std::vector<MockBuffer> data = {}, unsigned index = 2, std::uint8_t bus = 1) {
        put(lun, cdb, std::move(data), index, bus);
        if (!wait_used(index)) {
            return -1;
        }
        const auto answer = load<scsi_wire::ResponseHeader>(kAnswer);
        status_ = answer.status;
        residual_ = answer.residual;
        sense_ = load<std::array<std::uint8_t, 18>>(kAnswer + sizeof(answer));
        return answer.response;
    }
    void clear_attention(std::uint8_t lun) {
        while (run(lun, {0}) == 0 && status_ != 0) {
        }
    }
    int manage(std::uint32_t function, std::uint8_t lun) {
        const scsi_wire::Address address{1, 0, 0x40, lun, 0, 0, 0, 0};
        store(kControl, scsi_wire::TaskManagement{0U, function, address, Le64(77)});
        queues_[0].add({{kControl, 24, false}, {kControl + 0x100, 1, true}});
        device_->notify(0);
        return wait_used(0) ? load<std::uint8_t>(kControl + 0x100) : -1;
    }

    std::string path_;
    MockHost host_;
    std::uint64_t next_ring_ = 0x10000;
    std::vector<MockQueue> queues_;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<ScsiDevice> device_;
    Activation setup_;
    std::optional<UsedElement> used_;
    unsigned status_ = 0;
    unsigned residual_ = 0;
    std::array<std::uint8_t, 18> sense_{};
};

TEST_F(ScsiTest, WrittenBlocksAreReadBackThroughAnotherQueue) {
    activate();
    clear_attention(0);
    store<std::uint64_t>(kData, 0x1122334455667788);
    EXPECT_EQ(run(0, {0x2a, 0, 0, 0, 0, 3, 0, 0, 2, 0}, {{kData, 1024, false}}), 0);
    EXPECT_EQ(status_, 0U);
    EXPECT_EQ(used_->length, kAnswerSize);
    EXPECT_EQ(run(0, {0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0},
                  {{kData + 0x1000, 100, true}, {kData + 0x2000, 1000, true}}, 3),
              0);
    EXPECT_EQ(load<std::uint64_t>(kData + 0x1000), 0x1122334455667788U);
    EXPECT_EQ(used_->length, kAnswerSize + 512);
    EXPECT_EQ(residual_, 588U);
}

TEST_F(ScsiTest, FirstCommandHearsOfPowerOn) {
    activate();
    EXPECT_EQ(run(0, {0}), 0);
    EXPECT_EQ(status_, 2U);
    EXPECT_EQ(sense_[2], 6);
    EXPECT_EQ(sense_[12], 0x29);
}

TEST_F(ScsiTest, UnitsAreFoundByReportLuns) {
    activate();
    EXPECT_EQ(run(0, {0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{kData, 256, true}}), 0);
    EXPECT_EQ(load<Be32>(kData), 16U);
    EXPECT_EQ(load<std::uint8_t>(kData + 8 + 1), 0);
    EXPECT_EQ(load<std::uint8_t>(kData + 16 + 1), 5);
}

TEST_F(ScsiTest, AddressesWithoutAUnitAreAnswered) {
    activate();
    EXPECT_EQ(run(9, {0x12, 0, 0, 0, 96, 0}, {{kData, 96, true}}), 0);
    EXPECT_EQ(status_, 0U);
    EXPECT_EQ(load<std::uint8_t>(kData), 0x7f);
    EXPECT_EQ(run(0, {0}, {}, 2, 7), static_cast<int>(Response::BadTarget));
    EXPECT_FALSE(host_.needs_reset);
}

TEST_F(ScsiTest, ShortMemoryIsAnOverrun) {
    activate();
    clear_attention(0);
    EXPECT_EQ(run(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 4, 0}, {{kData, 512, true}}),
              static_cast<int>(Response::Overrun));
}

TEST_F(ScsiTest, DataOutsideMemoryFailsTheRequestAlone) {
    activate();
    clear_attention(0);
    EXPECT_EQ(run(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{1ULL << 40, 512, true}}),
              static_cast<int>(Response::Failure));
    EXPECT_EQ(run(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{kData, 512, true}}), 0);
}

TEST_F(ScsiTest, RequestWithoutRoomForItsAnswerNeedsAReset) {
    activate();
    queues_[2].add({{kRequest, kRequestSize, false}, {kAnswer, 20, true}});
    device_->notify(2);
    run_posted(*loop_);
    EXPECT_TRUE(host_.needs_reset);
}

TEST_F(ScsiTest, TaskManagementEndsTasksAndResets) {
    activate();
    clear_attention(5);
    put(5, {0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {{kData, 4096, true}});
    EXPECT_EQ(manage(scsi_wire::Function::kUnitReset, 5), 0);
    ASSERT_TRUE(wait_used(2));
    EXPECT_EQ(run(5, {0}), 0);
    EXPECT_EQ(sense_[12], 0x29);
    EXPECT_EQ(manage(scsi_wire::Function::kQueryTask, 5), 0);
    EXPECT_EQ(manage(scsi_wire::Function::kAbortTask, 7), static_cast<int>(Response::IncorrectLun));
    EXPECT_EQ(manage(99, 5), static_cast<int>(Response::FunctionRejected));
}

TEST_F(ScsiTest, UnitsThatComeAndGoAreReported) {
    activate();
    queues_[1].add({{kEvents, 16, true}});
    ASSERT_TRUE(device_->plug(2, unit()).ok());
    EXPECT_EQ(load<Le32>(kEvents), scsi_wire::EventType::kTransportReset);
    EXPECT_EQ(load<std::uint8_t>(kEvents + 4 + 3), 2);
    ASSERT_TRUE(device_->unplug(2).ok());  // no place: missed
    queues_[1].add({{kEvents + 0x100, 16, true}});
    device_->notify(1);
    run_posted(*loop_);
    EXPECT_EQ(load<Le32>(kEvents + 0x100), scsi_wire::EventType::kMissed);
    EXPECT_FALSE(device_->unplug(2).ok());
    queues_[1].add({{kEvents + 0x200, 16, true}});
    device_->capacity_changed(0);
    EXPECT_EQ(load<Le32>(kEvents + 0x200), scsi_wire::EventType::kParameterChange);
    EXPECT_EQ(load<Le32>(kEvents + 0x200 + 12), 0x092aU);
}

TEST_F(ScsiTest, DiskIsExchangedAndItsSizeTold) {
    activate();
    clear_attention(5);
    store<std::uint64_t>(kData, 0x1122334455667788);
    EXPECT_EQ(run(5, {0x2a, 0, 0, 0, 0, 3, 0, 0, 1, 0}, {{kData, 512, false}}), 0);
    block::DiskUser* disk = device_->disk_user(5);
    ASSERT_NE(disk, nullptr);
    EXPECT_EQ(device_->disk_user(2), nullptr);
    auto graph = block::live_image(disk->disk())->as_graph();
    ASSERT_TRUE(graph.ok());
    put(5, {0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {{kData + 0x1000, 4096, true}});
    ASSERT_TRUE(disk->exchange_image(std::move(*graph)).ok());
    ASSERT_TRUE(wait_used(2));
    EXPECT_EQ(run(5, {0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0}, {{kData + 0x1000, 512, true}}), 0);
    EXPECT_EQ(load<std::uint64_t>(kData + 0x1000), 0x1122334455667788U);
    disk->size_changed();
    EXPECT_EQ(run(5, {0}), 0);
    EXPECT_EQ(status_, 2U);
    EXPECT_EQ(sense_[2], 6);  // capacity data has changed
    EXPECT_EQ(sense_[12], 0x2a);
    EXPECT_EQ(sense_[13], 0x09);
}

TEST_F(ScsiTest, DiscIsChangedUnderARead) {
    activate();
    queues_[1].add({{kEvents + 0x100, 16, true}});  // of the unit that comes
    ASSERT_TRUE(device_->plug(3, scsi::CdUnit::create({}, nullptr).value()).ok());
    EXPECT_EQ(device_->medium_user(0), nullptr) << "a disk";
    EXPECT_EQ(device_->medium_user(9), nullptr);
    block::MediumUser* drive = device_->medium_user(3);
    ASSERT_NE(drive, nullptr);
    EXPECT_EQ(drive->medium().medium, nullptr);
    block::DiskOptions options;
    options.path = path_;
    options.read_only = true;
    options.lock = false;
    queues_[1].add({{kEvents, 16, true}});
    ASSERT_TRUE(drive->change_medium(block::open_disk(std::move(options)).value(), false).ok());
    EXPECT_EQ(load<Le32>(kEvents), scsi_wire::EventType::kParameterChange);
    EXPECT_EQ(load<Le32>(kEvents + 12), 0x28U);
    clear_attention(3);
    put(3, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{kData, 2048, true}});
    ASSERT_TRUE(drive->change_medium(nullptr, false).ok());
    ASSERT_TRUE(wait_used(2));
    EXPECT_TRUE(drive->medium().tray_open);
    EXPECT_EQ(run(3, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{kData, 2048, true}}), 0);
    EXPECT_EQ(status_, 2U);
    EXPECT_EQ(sense_[12], 0x3a);  // no medium, and the tray is open
    EXPECT_EQ(sense_[13], 0x02);
}

TEST_F(ScsiTest, ResetWithRequestsUnderWayBecomesIdle) {
    activate();
    clear_attention(0);
    for (int count = 0; count < 4; ++count) {
        put(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {{kData, 4096, true}});
    }
    loop_->run_once(std::chrono::milliseconds(0));
    device_->reset();
    for (int round = 0; round < 100 && !device_->idle(); ++round) {
        loop_->run_once(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(device_->idle());
    activate();
    clear_attention(0);
    EXPECT_EQ(run(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{kData, 512, true}}), 0);
}

TEST_F(ScsiTest, PauseCompletesRequestsAndStateContinues) {
    activate();
    clear_attention(0);
    device_->write_config(20, std::as_bytes(std::span("\0\0\0\1", 4)));  // refused while running
    put(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {{kData, 4096, true}});
    loop_->run_once(std::chrono::milliseconds(0));
    ASSERT_TRUE(device_->pause().ok());
    EXPECT_TRUE(queues_[2].take_used());
    state::StateWriter writer;
    ASSERT_TRUE(device_->save(writer).ok());
    make();
    ASSERT_TRUE(device_->pause().ok());
    ASSERT_TRUE(device_->activate(setup_).ok());
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(device_->load(reader).ok());
    ASSERT_TRUE(device_->resume().ok());
    EXPECT_EQ(run(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {{kData, 512, true}}), 0);
    EXPECT_EQ(status_, 0U);  // the attention was told before
}

}  // namespace
}  // namespace strata::virtio
