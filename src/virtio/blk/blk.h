// BlkDevice: virtio-blk over a block::DiskImage. VIRTIO 1.2, 5.2.
//
// Each virtqueue has a DiskQueue of its own. Data moves between the file and guest memory directly; a request's views of guest
// memory live until the host has completed it, also when the driver has reset the queue meanwhile (the chain is
// then given up, and the reset is complete when the last one has finished).
// Threads: requests and completions on the event loop under the device's lock; pause() may wait for I/O on its caller's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/disk_image.h"
#include "virtio/blk/wire.h"
#include "virtio/core/queued_device.h"

namespace strata::virtio {

struct BlkConfig {
    std::string label = "virtio-blk0";
    std::string serial;       ///< what GET_ID answers, at most 20 bytes
    unsigned queues = 1;      ///< 1 to 64
    std::uint16_t queue_size = 256;
};

class BlkDevice final : public QueuedDevice {
  public:
    /// Takes `image`.
    static Result<std::unique_ptr<BlkDevice>> create(const BlkConfig& config, std::unique_ptr<block::DiskImage> image,
                                                     io::EventLoop& loop);
    ~BlkDevice() override;
    [[nodiscard]] DeviceType type() const override { return DeviceType::Block; }
    [[nodiscard]] std::uint64_t offered_features() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    [[nodiscard]] const block::DiskImage& image() const { return *image_; }

  private:
    static constexpr std::uint32_t kMaxSegments = 32;
    static constexpr std::uint32_t kMaxSegmentSectors = 1U << 22;  // 2 GiB

    /// A request of the guest; its place in Lane::requests is the DiskQueue's token.
    struct Request {
        std::optional<DescriptorChain> chain;    ///< nullopt: free, or its queue is gone
        std::vector<memory::GuestSlices> views;
        std::uint32_t type = 0;
        unsigned outstanding = 0;  ///< disk requests that are not complete
        bool failed = false;
        bool sync_after = false;   ///< a write for a driver that knows no flush
        std::uint64_t length = 0;
    };
    /// One virtqueue's way to the disk.
    struct Lane {
        std::vector<Request> requests;
        std::vector<std::size_t> free;
        std::unique_ptr<block::DiskQueue> disk;  ///< after requests: it goes first
        io::EventLoop::WatchId watch = 0;
    };

    BlkDevice(const BlkConfig& config, std::unique_ptr<block::DiskImage> image, io::EventLoop& loop);
    Result<> open_lanes();

    Result<> serve(unsigned index) STRATA_REQUIRES(mutex_) override;
    Result<> serve_chain(unsigned index, DescriptorChain chain) STRATA_REQUIRES(mutex_) override;
    void queue_stopping(unsigned index) STRATA_REQUIRES(mutex_) override;
    [[nodiscard]] bool quiet(unsigned index) const STRATA_REQUIRES(mutex_) override;
    void drain() STRATA_REQUIRES(mutex_) override;

    // request.cc
    void begin(unsigned index, std::size_t at, const blk::RequestHeader& header) STRATA_REQUIRES(mutex_);
    void transfer(unsigned index, std::size_t at, std::uint64_t sector) STRATA_REQUIRES(mutex_);
    void change_ranges(unsigned index, std::size_t at) STRATA_REQUIRES(mutex_);
    void get_id(unsigned index, std::size_t at) STRATA_REQUIRES(mutex_);
    void submit(unsigned index, std::size_t at, block::DiskRequest request) STRATA_REQUIRES(mutex_);
    void reap(unsigned index) STRATA_REQUIRES(mutex_);
    void completed(unsigned index, const block::DiskCompletion& completion) STRATA_REQUIRES(mutex_);
    void finish(unsigned index, std::size_t at, blk::Status status) STRATA_REQUIRES(mutex_);
    std::size_t place(Lane& lane) STRATA_REQUIRES(mutex_);

    const std::string serial_;
    const std::unique_ptr<block::DiskImage> image_;
    std::vector<Lane> lanes_ STRATA_GUARDED_BY(mutex_);
    std::vector<block::DiskCompletion> scratch_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::virtio
