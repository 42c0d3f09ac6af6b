// KvmTestDevice: what kvm-unit-tests expects of QEMU's pc-testdev.
//
// kvm-unit-tests, lib/x86 and x86/ioapic.c, emulator.c: interrupt lines that a guest moves itself
// (ports 2000h-2017h: one byte a GSI), a 4-byte port register at E0h, and 64 KiB of memory-mapped
// scratch at FF000000h. Made only on demand, never part of a normal machine. Threads: everything
// from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/mutex.h"
#include "bus/bus_device.h"
#include "bus/interrupt.h"

namespace strata::devices {

class KvmTestDevice final {
  public:
    static constexpr std::uint16_t kLinePort = 0x2000;
    static constexpr std::uint64_t kLines = 24;
    static constexpr std::uint16_t kRegisterPort = 0xe0;
    static constexpr std::uint64_t kRegisterSize = 4;
    static constexpr std::uint64_t kMemoryAddress = 0xff000000;
    static constexpr std::uint64_t kMemorySize = 0x10000;

    /// `gsi` finds the line of a global system interrupt (0 to 23).
    explicit KvmTestDevice(std::function<bus::IrqLine&(std::uint32_t gsi)> gsi);

    [[nodiscard]] bus::BusDevice& line_ports() { return lines_; }
    [[nodiscard]] bus::BusDevice& register_port() { return register_; }
    [[nodiscard]] bus::BusDevice& memory() { return memory_; }

  private:
    class Lines final : public bus::BusDevice {
      public:
        explicit Lines(std::function<bus::IrqLine&(std::uint32_t)> gsi) : gsi_(std::move(gsi)) {}
        [[nodiscard]] std::string_view label() const override { return "testdev-irq"; }
        void read(std::uint64_t offset, std::span<std::byte> data) override;
        void write(std::uint64_t offset, std::span<const std::byte> data) override;

      private:
        const std::function<bus::IrqLine&(std::uint32_t)> gsi_;
    };
    /// Bytes that keep what is written.
    class Scratch final : public bus::BusDevice {
      public:
        Scratch(std::string_view label, std::size_t size) : label_(label), bytes_(size) {}
        [[nodiscard]] std::string_view label() const override { return label_; }
        void read(std::uint64_t offset, std::span<std::byte> data) override;
        void write(std::uint64_t offset, std::span<const std::byte> data) override;

      private:
        const std::string_view label_;
        Mutex mutex_;
        std::vector<std::byte> bytes_ STRATA_GUARDED_BY(mutex_);
    };
    Lines lines_;
    Scratch register_{"testdev-register", kRegisterSize};
    Scratch memory_{"testdev-memory", kMemorySize};
};

}  // namespace strata::devices
