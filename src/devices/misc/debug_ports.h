// DebugExit, DebugConsole, PostPort: ports that test guests and firmware talk to.
//
// DebugExit (isa-debug-exit, port F4h): a written value V ends the machine with exit status
// (V<<1)|1. DebugConsole (port E9h, as Bochs has it): bytes for the developer; reading answers E9h.
// PostPort (80h): power-on self-test codes, and the delay of old drivers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "bus/bus_device.h"

namespace strata::devices {

class DebugExit final : public bus::BusDevice {
  public:
    static constexpr std::uint16_t kPort = 0xf4;
    static constexpr std::uint64_t kSize = 4;
    /// `exit` gets the value as the guest wrote it (8, 16 or 32 bits), on the vCPU thread.
    explicit DebugExit(std::function<void(std::uint32_t value)> exit) : exit_(std::move(exit)) {}
    [[nodiscard]] std::string_view label() const override { return "debug-exit"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    const std::function<void(std::uint32_t)> exit_;
};

class DebugConsole final : public bus::BusDevice {
  public:
    static constexpr std::uint16_t kPort = 0xe9;
    static constexpr std::uint64_t kSize = 1;
    /// `sink` gets the bytes on the vCPU thread and must not block.
    explicit DebugConsole(std::function<void(std::span<const std::byte>)> sink)
        : sink_(std::move(sink)) {}
    [[nodiscard]] std::string_view label() const override { return "debugcon"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    const std::function<void(std::span<const std::byte>)> sink_;
};

class PostPort final : public bus::BusDevice {
  public:
    static constexpr std::uint16_t kPort = 0x80;
    static constexpr std::uint64_t kSize = 1;
    [[nodiscard]] std::string_view label() const override { return "post"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    /// The last code.
    [[nodiscard]] std::uint8_t code() const { return code_.load(std::memory_order_relaxed); }

  private:
    // relaxed: a number for people, nothing else is published through it.
    std::atomic<std::uint8_t> code_{0};
};

}  // namespace strata::devices
