// ByteWindow, DwordWindow: a device's register ranges as BusDevices.
//
// A device with several port ranges, or one whose registers have one natural width, hands out
// windows instead of being a BusDevice itself. A ByteWindow cuts any access into bytes at
// consecutive offsets, as the ISA bus does with 8-bit devices. The functions guard themselves; they
// are called without a lock.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "bus/bus_device.h"

namespace strata::devices {

class ByteWindow final : public bus::BusDevice {
  public:
    using Read = std::function<std::uint8_t(std::uint64_t offset)>;
    using Write = std::function<void(std::uint64_t offset, std::uint8_t value)>;
    ByteWindow(std::string label, Read read, Write write);

    [[nodiscard]] std::string_view label() const override { return label_; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    const std::string label_;
    const Read read_;
    const Write write_;
};

/// The little-endian integer in the first 8 bytes of `data`.
[[nodiscard]] std::uint64_t to_integer(std::span<const std::byte> data);
/// Stores `value` little-endian; bytes beyond the eighth become zero.
void from_integer(std::uint64_t value, std::span<std::byte> data);

}  // namespace strata::devices
