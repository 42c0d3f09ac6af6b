// BlkDevice: virtio-blk over a block::DiskImage. VIRTIO 1.2, 5.2.
//
// Each virtqueue has a DiskQueue of its own. Data moves between the file and guest memory directly;
// a request's views of guest memory live until the host has completed it, also when the driver has
// reset the queue meanwhile (the chain is then given up, and the reset is complete when the last
// one has finished). A write that the host refuses for want of room waits, as its policy says,
// until retry() succeeds: the guest is told nothing. Whoever runs the machine is told, and should
// hold it meanwhile; while something waits the device cannot be saved. Threads: requests and
// completions on the event loop under the device's lock; pause() may wait for I/O on its caller's
// thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/disk_image.h"
#include "block/disk_user.h"
#include "block/patient_queue.h"
#include "virtio/blk/wire.h"
#include "virtio/core/queued_device.h"

namespace strata::virtio {

struct BlkConfig {
    std::string label = "virtio-blk0";
    std::string serial;   ///< what GET_ID answers, at most 20 bytes
    unsigned queues = 1;  ///< 1 to 64
    std::uint16_t queue_size = 256;
    block::WriteErrorPolicy write_errors = block::WriteErrorPolicy::Enospc;
    block::ReadErrorPolicy read_errors = block::ReadErrorPolicy::Report;
    /// waiting() has begun or ceased to have an answer. On the event loop's thread, under the
    /// device's lock.
    std::function<void()> on_wait = {};
};

class BlkDevice final : public QueuedDevice, public block::DiskWaiter, public block::DiskUser {
  public:
    /// Takes `image`.
    static Result<std::unique_ptr<BlkDevice>> create(const BlkConfig& config,
                                                     std::unique_ptr<block::DiskImage> image,
                                                     io::EventLoop& loop);
    ~BlkDevice() override;
    [[nodiscard]] DeviceType type() const override { return DeviceType::Block; }
    [[nodiscard]] std::uint64_t offered_features() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    [[nodiscard]] block::DiskImage& disk() override STRATA_NO_THREAD_SAFETY_ANALYSIS {
        return *image_;  // only the event loop's thread changes it
    }
    Result<> exchange_image(std::unique_ptr<block::DiskImage> image) override;
    void size_changed() override;
    [[nodiscard]] std::optional<block::DiskWait> waiting() const override;
    void retry() override;
    /// WrongState while requests wait.
    Result<> save(state::StateWriter& writer) const override;

  private:
    static constexpr std::uint32_t kMaxSegments = 32;
    static constexpr std::uint32_t kMaxSegmentSectors = 1U << 22;  // 2 GiB

    /// A request of the guest; its place in Lane::requests is the DiskQueue's token.
    struct Request {
        std::optional<DescriptorChain> chain;  ///< nullopt: free, or its queue is gone
        std::vector<memory::GuestSlices> views;
        blk::RequestHeader header{};
        unsigned outstanding = 0;  ///< disk requests that are not complete
        int error = 0;             ///< of the first of them that failed
        bool sync_after = false;   ///< a write for a driver that knows no flush
        std::uint64_t length = 0;
    };
    /// One virtqueue's way to the disk.
    struct Lane {
        std::vector<Request> requests;
        std::vector<std::size_t> free;
        std::unique_ptr<block::PatientQueue> disk;  ///< after requests: it goes first
        io::EventLoop::WatchId watch = 0;
    };

    BlkDevice(const BlkConfig& config, std::unique_ptr<block::DiskImage> image,
              io::EventLoop& loop);
    Result<> open_lanes(const BlkConfig& config);
    using Disks = std::vector<std::unique_ptr<block::DiskQueue>>;
    Result<Disks> open_disks(block::DiskImage& image) const;
    using Watches = std::vector<io::EventLoop::WatchId>;
    /// All of them or none.
    Result<Watches> watch_disks(const Disks& disks);

    Result<> serve(unsigned index) STRATA_REQUIRES(mutex_) override;
    Result<> serve_chain(unsigned index, DescriptorChain chain) STRATA_REQUIRES(mutex_) override;
    void queue_stopping(unsigned index) STRATA_REQUIRES(mutex_) override;
    [[nodiscard]] bool quiet(unsigned index) const STRATA_REQUIRES(mutex_) override;
    void drain() STRATA_REQUIRES(mutex_) override;

    // request.cc
    void begin(unsigned index, std::size_t at) STRATA_REQUIRES(mutex_);
    void transfer(unsigned index, std::size_t at) STRATA_REQUIRES(mutex_);
    void change_ranges(unsigned index, std::size_t at) STRATA_REQUIRES(mutex_);
    void get_id(unsigned index, std::size_t at) STRATA_REQUIRES(mutex_);
    void submit(unsigned index, std::size_t at, block::DiskRequest request) STRATA_REQUIRES(mutex_);
    void reap(unsigned index) STRATA_REQUIRES(mutex_);
    /// Completes what has ended; whether there was anything.
    bool take_completed(unsigned index) STRATA_REQUIRES(mutex_);
    void completed(unsigned index, const block::DiskCompletion& completion) STRATA_REQUIRES(mutex_);
    void finish(unsigned index, std::size_t at, blk::Status status) STRATA_REQUIRES(mutex_);
    std::size_t place(Lane& lane) STRATA_REQUIRES(mutex_);

    const std::string serial_;
    std::function<void()> on_wait_ STRATA_GUARDED_BY(mutex_);
    const block::DiskTraits traits_;      ///< all but the size never change
    std::atomic<std::uint64_t> sectors_;  ///< vCPU threads read it
    std::unique_ptr<block::DiskImage> image_ STRATA_GUARDED_BY(mutex_);
    std::vector<Lane> lanes_ STRATA_GUARDED_BY(mutex_);
    std::vector<block::DiskCompletion> scratch_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::virtio
