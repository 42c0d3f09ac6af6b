// NetDevice: virtio-net over a net::NetBackend: one queue pair and the control queue.
// VIRTIO 1.2, 5.1.
//
// Frames are copied once in each direction. A frame for the guest stays in the backend until the
// driver has given enough buffers, so back-pressure reaches the backend. Checksums that the driver
// leaves to the device are filled in here. The receive filter is advisory in VIRTIO: the commands
// are taken and every frame is delivered.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "net/net_backend.h"
#include "virtio/core/queued_device.h"
#include "virtio/net/wire.h"

namespace strata::virtio {

using MacAddress = std::array<std::uint8_t, 6>;

struct NetDeviceConfig {
    std::string label = "virtio-net0";
    MacAddress mac{0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    std::uint16_t queue_size = 256;
};

class NetDevice final : public QueuedDevice {
  public:
    /// Takes `backend`, which lives on the same `loop`.
    NetDevice(const NetDeviceConfig& config, std::unique_ptr<net::NetBackend> backend,
              io::EventLoop& loop);
    ~NetDevice() override;
    [[nodiscard]] DeviceType type() const override { return DeviceType::Net; }
    [[nodiscard]] std::uint64_t offered_features() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    /// Plugs the cable in or pulls it. Any thread.
    void set_link(bool up);

  private:
    static constexpr unsigned kReceive = 0;
    static constexpr unsigned kTransmit = 1;
    static constexpr unsigned kControl = 2;

    Result<> serve(unsigned index) STRATA_REQUIRES(mutex_) override;
    Result<> serve_chain(unsigned index, DescriptorChain chain) STRATA_REQUIRES(mutex_) override;
    void save_device(state::StateWriter& writer) const STRATA_REQUIRES(mutex_) override;
    void load_device(state::StateReader& reader) STRATA_REQUIRES(mutex_) override;

    Result<> receive() STRATA_REQUIRES(mutex_);
    /// Puts one frame into the driver's buffers; false if there are too few.
    Result<bool> deliver(std::span<const std::byte> frame) STRATA_REQUIRES(mutex_);
    Result<> fill(std::span<const std::byte> frame, std::size_t chains) STRATA_REQUIRES(mutex_);
    Result<> transmit(DescriptorChain chain) STRATA_REQUIRES(mutex_);
    Result<> control(DescriptorChain chain) STRATA_REQUIRES(mutex_);
    std::uint8_t execute(const DescriptorChain& chain) STRATA_REQUIRES(mutex_);
    void drop_taken() STRATA_REQUIRES(mutex_);

    const std::unique_ptr<net::NetBackend> backend_;
    MacAddress mac_ STRATA_GUARDED_BY(mutex_);
    bool link_ STRATA_GUARDED_BY(mutex_) = true;
    std::vector<std::byte> frame_ STRATA_GUARDED_BY(mutex_);  ///< the frame being sent
    std::vector<DescriptorChain> taken_
        STRATA_GUARDED_BY(mutex_);  ///< chains for the frame being delivered; else empty
};

/// Fills the ones' complement checksum over [start, end) of `frame` in at start + offset, as a
/// driver asks with NEEDS_CSUM. False if that is outside the frame.
bool fill_checksum(std::span<std::byte> frame, std::size_t start, std::size_t offset);

}  // namespace strata::virtio
