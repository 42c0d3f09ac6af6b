// QueuedDevice: the common part of the devices: queues served on an event loop under one lock.
//
// A notification marks its queue and posts one piece of work to the loop, however many arrive; the
// loop's thread takes the lock and calls serve(), which works a bounded batch. A driver that breaks
// the rules stops the device until it is reset. Threads: see VirtioDevice. The loop outlives the
// device; the device is destroyed on the loop's thread or after it stopped.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "io/event_loop.h"
#include "virtio/core/virtio_device.h"

namespace strata::virtio {

class QueuedDevice : public VirtioDevice {
  public:
    [[nodiscard]] std::string_view label() const override { return label_; }
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return sizes_; }
    void write_config(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) override {}
    [[nodiscard]] std::uint8_t config_generation() const override {
        return generation_.load(std::memory_order_acquire);
    }
    void attach(DeviceHost& host) override { host_ = &host; }
    Result<> activate(const Activation& activation) override;
    void reset() override;
    [[nodiscard]] bool idle() const override;
    void stop_queue(unsigned queue) override;
    [[nodiscard]] bool queue_idle(unsigned queue) const override;
    Result<> start_queue(unsigned queue, const QueueSetup& setup) override;
    void notify(unsigned queue) override;

    Result<> pause() override;
    Result<> resume() override;
    /// Section "virtio:LABEL": ring positions, then what save_device() adds.
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  protected:
    QueuedDevice(std::string label, std::vector<std::uint16_t> queue_sizes, io::EventLoop& loop);

    /// Features of the rings themselves that every device offers.
    static constexpr std::uint64_t kRingFeatures =
        Feature::kIndirect | Feature::kEventIndex | Feature::kRingReset;
    /// How many chains serve() takes before others get their turn.
    static constexpr unsigned kBatch = 64;

    /// Works on queue `queue`. The default takes chains, at most kBatch, and calls serve_chain()
    /// for each. An Error: the driver broke the rules.
    virtual Result<> serve(unsigned queue) STRATA_REQUIRES(mutex_);
    /// Serves one chain: gives it back now, or keeps it and gives it back later.
    virtual Result<> serve_chain(unsigned queue, DescriptorChain chain) STRATA_REQUIRES(mutex_);
    /// The device was activated, its queues are there. `features` are the negotiated ones.
    virtual void started() STRATA_REQUIRES(mutex_) {}
    /// Queue `queue` is about to go: drop what refers to it.
    virtual void queue_stopping(unsigned /*queue*/) STRATA_REQUIRES(mutex_) {}
    /// True when no I/O of `queue` touches guest memory any more.
    [[nodiscard]] virtual bool quiet(unsigned /*queue*/) const STRATA_REQUIRES(mutex_) {
        return true;
    }
    /// pause(): returns when no request is under way.
    virtual void drain() STRATA_REQUIRES(mutex_) {}
    /// State beyond the queues, in the same section.
    virtual void save_device(state::StateWriter& /*writer*/) const STRATA_REQUIRES(mutex_) {}
    virtual void load_device(state::StateReader& /*reader*/) STRATA_REQUIRES(mutex_) {}

    /// nullptr if the driver does not use it or the device is not active.
    [[nodiscard]] Virtqueue* queue(unsigned index) const STRATA_REQUIRES(mutex_) {
        return queues_[index].get();
    }
    [[nodiscard]] bool paused() const STRATA_REQUIRES(mutex_) { return paused_; }
    /// Active, not paused, not broken.
    [[nodiscard]] bool serving() const STRATA_REQUIRES(mutex_) {
        return active_ && !paused_ && !broken_;
    }
    [[nodiscard]] std::uint64_t features() const STRATA_REQUIRES(mutex_) { return features_; }
    /// Interrupts the driver if it wants to know of what was pushed to `index`.
    void signal(unsigned index) STRATA_REQUIRES(mutex_);
    /// The driver broke the rules.
    void fail(const Error& error) STRATA_REQUIRES(mutex_);
    /// The configuration space changed.
    void config_changed() STRATA_REQUIRES(mutex_);
    /// Runs serve() for `queue` soon, as if the driver had notified.
    void wake(unsigned queue) { notify(queue); }
    [[nodiscard]] io::EventLoop& loop() const { return loop_; }
    [[nodiscard]] DeviceHost* host() const { return host_; }

    mutable Mutex mutex_;

  private:
    void run(unsigned queue);

    const std::string label_;
    const std::vector<std::uint16_t> sizes_;
    io::EventLoop& loop_;
    DeviceHost* host_ = nullptr;  ///< set once, before the guest runs
    std::atomic<std::uint8_t> generation_{0};
    std::unique_ptr<std::atomic<bool>[]>
        woken_;  ///< work for the queue is posted and has not begun
    std::vector<std::unique_ptr<Virtqueue>> queues_ STRATA_GUARDED_BY(mutex_);
    std::uint64_t features_ STRATA_GUARDED_BY(mutex_) = 0;
    bool active_ STRATA_GUARDED_BY(mutex_) = false;
    bool broken_ STRATA_GUARDED_BY(mutex_) = false;
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
};

/// Copies [offset, offset+data) of a configuration structure of `size` bytes; zeros past its end.
void copy_config(std::span<const std::byte> config, std::uint64_t offset,
                 std::span<std::byte> data);

}  // namespace strata::virtio
