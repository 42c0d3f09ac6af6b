// VirtioPciTransport: a virtio device as a modern PCI function. VIRTIO 1.2, 4.1.
//
// One 64-bit BAR of 32 KiB holds everything: common configuration at 0, ISR at 0x1000, device
// configuration at 0x2000, one notification word a queue at 0x3000, the MSI-X table at 0x4000 and
// its pending bits at 0x5000. One vector a queue and one for configuration changes; without MSI-X,
// INTA# and the ISR register. A reset is complete when the device has no I/O under way in guest
// memory; the status register reads nonzero until then. Threads: registers from any vCPU under
// registers_mutex_; interrupts from the device's loop without it. A notification takes no lock and
// only wakes the device.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "pci/pci_device.h"
#include "virtio/core/virtio_device.h"
#include "virtio/transport/pci/wire.h"

namespace strata::virtio {

/// Which ring layouts the driver may choose from.
enum class RingFormats : std::uint8_t { Split, SplitAndPacked };

class VirtioPciTransport final : public pci::PciDevice, private DeviceHost {
  public:
    static constexpr std::uint64_t kIsrOffset = 0x1000;
    static constexpr std::uint64_t kDeviceOffset = 0x2000;
    static constexpr std::uint64_t kNotifyOffset = 0x3000;
    static constexpr std::uint32_t kTableOffset = 0x4000;
    static constexpr std::uint32_t kPendingOffset = 0x5000;
    static constexpr std::uint64_t kBarSize = 0x8000;
    static constexpr unsigned kMaxQueues = 255;

    /// Takes `device`; `memory` outlives the transport.
    VirtioPciTransport(std::unique_ptr<VirtioDevice> device, const memory::GuestMemory& memory,
                       RingFormats formats = RingFormats::Split);
    ~VirtioPciTransport() override;

    [[nodiscard]] VirtioDevice& device() const { return *device_; }
    [[nodiscard]] std::string_view label() const override { return device_->label(); }
    void config_read(unsigned offset, std::span<std::byte> data) override;
    void config_write(unsigned offset, std::span<const std::byte> data) override;
    void bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data) override;
    void bar_write(unsigned bar, std::uint64_t offset, std::span<const std::byte> data) override;
    void reset() override;

    Result<> pause() override { return device_->pause(); }
    Result<> resume() override { return device_->resume(); }
    /// Sections "pci:LABEL", "virtio-pci:LABEL", then the device's.
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    struct Queue {
        QueueSetup setup;
        std::uint16_t max_size = 0;
        bool enabled = false;
        bool resetting = false;
    };

    // DeviceHost
    [[nodiscard]] const memory::GuestMemory& memory() const override { return memory_; }
    void raise_queue(unsigned queue) override;
    void raise_config() override;
    void request_reset() override;
    void raise(std::uint16_t vector, std::uint8_t isr_bit);

    void describe_capabilities();
    [[nodiscard]] PciCommonConfig common() STRATA_REQUIRES(registers_mutex_);
    void write_common(std::uint64_t offset, std::span<const std::byte> data)
        STRATA_EXCLUDES(registers_mutex_);
    void write_global(std::uint64_t offset, std::uint64_t value) STRATA_REQUIRES(registers_mutex_);
    void write_queue(std::uint64_t offset, std::size_t size, std::uint64_t value)
        STRATA_REQUIRES(registers_mutex_);
    void write_status(std::uint8_t value) STRATA_REQUIRES(registers_mutex_);
    void write_queue_size(Queue& queue, std::uint16_t size) STRATA_REQUIRES(registers_mutex_);
    void enable_queue(Queue& queue) STRATA_REQUIRES(registers_mutex_);
    void reset_queue(Queue& queue) STRATA_REQUIRES(registers_mutex_);
    void start_device() STRATA_REQUIRES(registers_mutex_);
    void reset_registers() STRATA_REQUIRES(registers_mutex_);
    void finish_reset() STRATA_REQUIRES(registers_mutex_);
    [[nodiscard]] Activation activation() const STRATA_REQUIRES(registers_mutex_);
    [[nodiscard]] std::uint64_t offered() const;
    [[nodiscard]] std::uint8_t isr() const;
    void set_isr(std::uint8_t value);
    [[nodiscard]] std::uint16_t checked_vector(std::uint64_t vector) const;
    /// The bytes of BAR 0 that the pci-cfg window shows: offset and length; length 0: nothing.
    struct WindowPlace {
        std::uint64_t offset = 0;
        std::size_t length = 0;
    };
    WindowPlace window_place();

    const std::unique_ptr<VirtioDevice> device_;
    const memory::GuestMemory& memory_;
    const RingFormats formats_;
    unsigned window_ = 0;  ///< where the pci-cfg capability lies

    mutable Mutex registers_mutex_;
    std::uint32_t device_feature_select_ STRATA_GUARDED_BY(registers_mutex_) = 0;
    std::uint32_t driver_feature_select_ STRATA_GUARDED_BY(registers_mutex_) = 0;
    std::uint64_t driver_features_ STRATA_GUARDED_BY(registers_mutex_) = 0;
    std::uint16_t queue_select_ STRATA_GUARDED_BY(registers_mutex_) = 0;
    std::uint8_t status_ STRATA_GUARDED_BY(registers_mutex_) = 0;
    bool resetting_ STRATA_GUARDED_BY(registers_mutex_) = false;
    std::vector<Queue> queues_ STRATA_GUARDED_BY(registers_mutex_);

    // Read by the device's loop without the register lock; relaxed: the guest orders its own vector
    // changes.
    std::atomic<bool> needs_reset_{false};
    std::atomic<std::uint16_t> config_vector_{kNoVector};
    std::vector<std::atomic<std::uint16_t>> vectors_;
    mutable Mutex isr_mutex_;  ///< a leaf but for PciDevice's: keeps the ISR and INTA# in step
    std::uint8_t isr_ STRATA_GUARDED_BY(isr_mutex_) = 0;
};

}  // namespace strata::virtio
