// BlkDevice: making, configuration space, life cycle.
#include "virtio/blk/blk.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>
#include <sys/epoll.h>

namespace strata::virtio {

BlkDevice::BlkDevice(const BlkConfig& config, std::unique_ptr<block::DiskImage> image,
                     io::EventLoop& loop)
    : QueuedDevice(config.label, std::vector<std::uint16_t>(config.queues, config.queue_size),
                   loop),
      serial_(config.serial.substr(0, blk::kIdSize)),
      on_wait_(config.on_wait),
      traits_(image->traits()),
      sectors_(traits_.size / block::kSectorSize),
      image_(std::move(image)),
      lanes_(config.queues) {}

Result<std::unique_ptr<BlkDevice>> BlkDevice::create(const BlkConfig& config,
                                                     std::unique_ptr<block::DiskImage> image,
                                                     io::EventLoop& loop) {
    if (config.queues < 1 || config.queues > 64 || !std::has_single_bit(config.queue_size) ||
        config.queue_size > Virtqueue::kMaxSize || config.queue_size < 4) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("{}: 1 to 64 queues of 4 to 1024 entries (a power of two)", config.label)};
    }
    std::unique_ptr<BlkDevice> device(new BlkDevice(config, std::move(image), loop));
    STRATA_TRY_VOID(device->open_lanes(config));
    return device;
}

Result<> BlkDevice::open_lanes(const BlkConfig& config) {
    const MutexLock lock(mutex_);
    Disks disks = STRATA_TRY(open_disks(*image_));
    const Watches watches = STRATA_TRY(watch_disks(disks));
    for (unsigned index = 0; index < lanes_.size(); ++index) {
        lanes_[index].disk = std::make_unique<block::PatientQueue>(
            std::move(disks[index]), std::string(image_->name()), config.write_errors,
            [this]() STRATA_NO_THREAD_SAFETY_ANALYSIS {  // from within calls under the lock
                if (on_wait_) {
                    on_wait_();
                }
            },
            config.read_errors);
        lanes_[index].watch = watches[index];
    }
    return ok();
}

Result<BlkDevice::Disks> BlkDevice::open_disks(block::DiskImage& image) const {
    Disks disks;
    for (const std::uint16_t size : queue_sizes()) {
        disks.push_back(STRATA_TRY(image.open_queue(size)));
    }
    return disks;
}

Result<BlkDevice::Watches> BlkDevice::watch_disks(const Disks& disks) {
    Watches watches;
    for (unsigned index = 0; index < disks.size(); ++index) {
        auto watch = loop().watch(disks[index]->completion_fd(), EPOLLIN,
                                  [this, index](std::uint32_t /*events*/) {
                                      const MutexLock inner(mutex_);
                                      reap(index);
                                  });
        if (!watch) {
            for (const io::EventLoop::WatchId each : watches) {
                loop().remove(each);
            }
            return std::move(watch).error();
        }
        watches.push_back(*watch);
    }
    return watches;
}

BlkDevice::~BlkDevice() {
    const MutexLock lock(mutex_);
    on_wait_ = {};
    for (unsigned index = 0; index < lanes_.size(); ++index) {
        if (lanes_[index].disk != nullptr) {
            queue_stopping(index);
            loop().remove(lanes_[index].watch);
            lanes_[index].disk.reset();  // waits for what is under way
        }
    }
}

Result<> BlkDevice::exchange_image(std::unique_ptr<block::DiskImage> image) {
    const MutexLock lock(mutex_);
    Disks disks = STRATA_TRY(open_disks(*image));
    const Watches watches = STRATA_TRY(watch_disks(disks));
    // Nothing can fail from here on: the old disk may go.
    drain();
    for (unsigned index = 0; index < lanes_.size(); ++index) {
        loop().remove(lanes_[index].watch);
        lanes_[index].disk->exchange(std::move(disks[index]));
        lanes_[index].watch = watches[index];
    }
    image_ = std::move(image);
    return ok();
}

void BlkDevice::size_changed() {
    const MutexLock lock(mutex_);
    sectors_.store(image_->traits().size / block::kSectorSize, std::memory_order_release);
    config_changed();
}

std::uint64_t BlkDevice::offered_features() const {
    const block::DiskTraits& traits = traits_;
    std::uint64_t features = kRingFeatures | blk::Features::kSegMax | blk::Features::kBlockSize |
                             blk::Features::kTopology;
    features |= traits.read_only ? blk::Features::kReadOnly : 0;
    features |= traits.write_cache ? blk::Features::kFlush : 0;
    features |= queue_sizes().size() > 1 ? blk::Features::kMultiQueue : 0;
    features |= traits.discard ? blk::Features::kDiscard : 0;
    features |= traits.write_zeroes ? blk::Features::kWriteZeroes : 0;
    return features;
}

void BlkDevice::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const block::DiskTraits& traits = traits_;
    blk::Config config{};
    config.capacity = sectors_.load(std::memory_order_acquire);
    config.seg_max = std::uint32_t{queue_sizes()[0]} - 2;  // header and status take one each
    config.blk_size = static_cast<std::uint32_t>(block::kSectorSize);
    config.physical_block_exp =
        static_cast<std::uint8_t>(std::countr_zero(std::max(traits.physical_block, 512U)) - 9);
    config.min_io_size = std::uint16_t{1};
    config.writeback = traits.write_cache ? 1 : 0;
    config.num_queues = static_cast<std::uint16_t>(queue_sizes().size());
    config.max_discard_sectors = std::uint32_t{kMaxSegmentSectors};
    config.max_discard_seg = std::uint32_t{kMaxSegments};
    config.discard_sector_alignment =
        traits.discard_alignment / static_cast<std::uint32_t>(block::kSectorSize);
    config.max_write_zeroes_sectors = std::uint32_t{kMaxSegmentSectors};
    config.max_write_zeroes_seg = std::uint32_t{kMaxSegments};
    config.write_zeroes_may_unmap = traits.discard ? 1 : 0;
    copy_config(std::as_bytes(std::span(&config, 1)), offset, data);
}

Result<> BlkDevice::serve(unsigned index) {
    auto served = QueuedDevice::serve(index);
    lanes_[index].disk->kick();
    reap(index);
    return served;
}

Result<> BlkDevice::serve_chain(unsigned index, DescriptorChain chain) {
    const auto header = chain.load<blk::RequestHeader>(0);
    if (!header.ok() || chain.writable() < 1) {
        std::move(chain).abandon();
        return Error{ErrorKind::Failed, "a block request has no header or no place for its status"};
    }
    Lane& lane = lanes_[index];
    const std::size_t at = place(lane);
    lane.requests[at].chain.emplace(std::move(chain));
    lane.requests[at].header = *header;
    begin(index, at);
    return ok();
}

std::size_t BlkDevice::place(Lane& lane) {
    if (lane.free.empty()) {
        lane.free.push_back(lane.requests.size());
        lane.requests.emplace_back();
    }
    const std::size_t at = lane.free.back();
    lane.free.pop_back();
    Request& request = lane.requests[at];
    request.outstanding = 0;
    request.error = 0;
    request.sync_after = false;
    request.length = 0;
    return at;
}

void BlkDevice::queue_stopping(unsigned index) {
    for (Request& request : lanes_[index].requests) {
        if (request.chain) {
            std::move(*request.chain).abandon();
            request.chain.reset();
        }
    }
    lanes_[index].disk->give_up_all();
    (void)take_completed(index);  // without chains: only their places are given back
    lanes_[index].disk->kick();   // flushes after writes that had ended
}

bool BlkDevice::quiet(unsigned index) const {
    return lanes_[index].disk->in_flight() == 0;
}

void BlkDevice::drain() {
    for (unsigned index = 0; index < lanes_.size(); ++index) {
        lanes_[index].disk->kick();
        reap(index);
        while (lanes_[index].disk->in_flight() != 0) {
            lanes_[index].disk->wait();
            reap(index);
        }
    }
}

}  // namespace strata::virtio
