// BusDevice: what a device shows to a bus (memory-mapped or port I/O).
//
// A Bus finds the device by address and passes the offset inside the device's own range, so a
// device never learns where it is mapped. Calls arrive from any vCPU thread at once: the device
// guards its own state, the bus holds no lock while it calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace strata::bus {

class BusDevice {
  public:
    virtual ~BusDevice() = default;

    /// Name for logs and metrics, e.g. "serial0".
    [[nodiscard]] virtual std::string_view label() const = 0;

    /// Fills `data` with what the guest reads at `offset`. The guest chooses both: any offset, any
    /// size from 1 to 8. Registers that do not exist read as all ones.
    virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;

    /// Takes the guest's write. A write that makes no sense is counted and dropped.
    virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

}  // namespace strata::bus
