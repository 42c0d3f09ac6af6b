// VirtioDevice: a virtio device without its transport, and DeviceHost, what the transport does for
// it.
//
// The transport keeps registers and negotiates; the device has a type, features, a configuration
// space and queues. The life of a device: attach() once; then any number of rounds of activate()
// (the driver set DRIVER_OK) and reset(). Threads: vCPU threads call everything here and must never
// wait for I/O: notify() only wakes the device's event loop. A device calls its DeviceHost with its
// own lock held; the transport therefore takes its register lock before the device's and never
// inside a DeviceHost function.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "state/snapshottable.h"
#include "virtio/core/virtqueue.h"
#include "virtio/core/wire.h"

namespace strata::virtio {

/// The transport, seen from the device. Any thread.
class DeviceHost {
  public:
    virtual ~DeviceHost() = default;
    [[nodiscard]] virtual const memory::GuestMemory& memory() const = 0;
    /// Interrupts the driver: buffers of `queue` were used; the configuration space changed.
    virtual void raise_queue(unsigned queue) = 0;
    virtual void raise_config() = 0;
    /// The driver broke the rules: sets DEVICE_NEEDS_RESET and tells it.
    virtual void request_reset() = 0;
};

/// What was negotiated when the driver set DRIVER_OK.
struct Activation {
    std::uint64_t features = 0;
    std::vector<std::optional<QueueSetup>>
        queues;  ///< one for each queue; nullopt: the driver does not use it
};

class VirtioDevice : public state::Pausable, public state::Snapshottable {
  public:
    [[nodiscard]] virtual DeviceType type() const = 0;
    [[nodiscard]] virtual std::string_view label() const = 0;
    /// All bits the device offers, ring features included (Feature::kVersion1 is added by the
    /// transport).
    [[nodiscard]] virtual std::uint64_t offered_features() const = 0;
    /// The largest size of each queue; their number never changes.
    [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const = 0;

    /// The device-specific configuration space; past its end reads are zeros, writes are dropped.
    virtual void read_config(std::uint64_t offset, std::span<std::byte> data) const = 0;
    virtual void write_config(std::uint64_t offset, std::span<const std::byte> data) = 0;
    /// Changes whenever the configuration space does.
    [[nodiscard]] virtual std::uint8_t config_generation() const = 0;

    virtual void attach(DeviceHost& host) = 0;
    /// Starts serving. Failed: the queues are not usable; the transport asks for a reset.
    virtual Result<> activate(const Activation& activation) = 0;
    /// Stops serving. Afterwards the device is quiet once idle() says so; until then it may still
    /// touch guest memory.
    virtual void reset() = 0;
    [[nodiscard]] virtual bool idle() const = 0;
    /// As reset() and activate() for one queue. VIRTIO 1.2, 2.6.1.
    virtual void stop_queue(unsigned queue) = 0;
    [[nodiscard]] virtual bool queue_idle(unsigned queue) const = 0;
    virtual Result<> start_queue(unsigned queue, const QueueSetup& setup) = 0;

    /// The driver put buffers into `queue` (any number: unknown ones are ignored).
    virtual void notify(unsigned queue) = 0;
};

}  // namespace strata::virtio
