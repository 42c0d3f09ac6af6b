// ConsoleDevice: virtio-console with one port. VIRTIO 1.2, 5.3.
//
// Output chains are handed to the ConsoleBackend as it has room; a chain that is only partly taken
// waits, and with it the driver. Input is taken from the host only while the driver has given
// buffers, so nothing is lost and little is buffered. Threads: see QueuedDevice; the backend is
// called on the loop's thread with the device's lock held and must not call back from inside its
// functions (receive() from there would deadlock): it posts.
#pragma once

#include <optional>

#include "virtio/core/queued_device.h"

namespace strata::virtio {

/// The host's side of a console.
class ConsoleBackend {
  public:
    virtual ~ConsoleBackend() = default;
    /// Takes output without blocking; answers how many bytes were taken. If not all,
    /// ConsoleDevice::output_ready() follows.
    virtual std::size_t write(std::span<const std::byte> data) = 0;
    /// The guest has room for input again.
    virtual void input_ready() = 0;
};

struct ConsoleConfig {
    std::string label = "virtio-console0";
    std::uint16_t columns = 80;
    std::uint16_t rows = 25;
};

class ConsoleDevice final : public QueuedDevice {
  public:
    static constexpr std::uint64_t kFeatureSize = 1;  ///< columns and rows are valid

    /// `backend` outlives the device.
    ConsoleDevice(const ConsoleConfig& config, ConsoleBackend& backend, io::EventLoop& loop);
    ~ConsoleDevice() override;
    [[nodiscard]] DeviceType type() const override { return DeviceType::Console; }
    [[nodiscard]] std::uint64_t offered_features() const override {
        return kRingFeatures | kFeatureSize;
    }
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;

    /// Offers input; answers how many bytes were taken. If not all, ConsoleBackend::input_ready()
    /// follows. Any thread.
    std::size_t receive(std::span<const std::byte> data);
    /// The backend has room again. Any thread.
    void output_ready() { wake(kTransmit); }
    /// The host's terminal has a new size. Any thread.
    void resize(std::uint16_t columns, std::uint16_t rows);

  private:
    static constexpr unsigned kReceive = 0;
    static constexpr unsigned kTransmit = 1;
    Result<> serve(unsigned index) STRATA_REQUIRES(mutex_) override;
    Result<> transmit() STRATA_REQUIRES(mutex_);
    /// True if the whole of the pending chain was written.
    Result<bool> write_pending() STRATA_REQUIRES(mutex_);
    void queue_stopping(unsigned index) STRATA_REQUIRES(mutex_) override;
    void drain() STRATA_REQUIRES(mutex_) override;
    void save_device(state::StateWriter& writer) const STRATA_REQUIRES(mutex_) override;
    void load_device(state::StateReader& reader) STRATA_REQUIRES(mutex_) override;

    ConsoleBackend& backend_;
    std::uint16_t columns_ STRATA_GUARDED_BY(mutex_);
    std::uint16_t rows_ STRATA_GUARDED_BY(mutex_);
    std::optional<DescriptorChain> pending_
        STRATA_GUARDED_BY(mutex_);  ///< output that the backend has taken in part
    std::uint64_t pending_done_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint64_t skip_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< bytes of the next output chain that were taken before a pause
    bool input_waits_ STRATA_GUARDED_BY(mutex_) =
        false;  ///< the host has input for which there was no buffer
};

}  // namespace strata::virtio
