// RngDevice: virtio-rng: random bytes of the host for the guest. VIRTIO 1.2, 5.4.
//
// Bytes come from getrandom(2). A guest gets at most RngConfig::bytes_per_second; a request past
// that waits in the ring until the budget has grown again, so a guest that asks in a loop costs the
// host a bounded share of a core.
#pragma once

#include <chrono>

#include "virtio/core/queued_device.h"

namespace strata::virtio {

struct RngConfig {
    std::string label = "virtio-rng0";
    std::uint64_t bytes_per_second = 16ULL << 20;
};

class RngDevice final : public QueuedDevice {
  public:
    RngDevice(const RngConfig& config, io::EventLoop& loop);
    ~RngDevice() override;
    [[nodiscard]] DeviceType type() const override { return DeviceType::Entropy; }
    [[nodiscard]] std::uint64_t offered_features() const override { return kRingFeatures; }
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override {
        copy_config({}, offset, data);
    }

  private:
    /// The most that one chain is given.
    static constexpr std::uint64_t kMaxBytes = 64 * 1024;
    Result<> serve(unsigned index) STRATA_REQUIRES(mutex_) override;
    Result<> fill(DescriptorChain chain) STRATA_REQUIRES(mutex_);
    void grow_budget() STRATA_REQUIRES(mutex_);

    const std::uint64_t bytes_per_second_;
    std::uint64_t budget_ STRATA_GUARDED_BY(mutex_);
    io::EventLoop::Clock::time_point grown_ STRATA_GUARDED_BY(mutex_);
    io::EventLoop::TimerId timer_ STRATA_GUARDED_BY(mutex_) = 0;
};

}  // namespace strata::virtio
