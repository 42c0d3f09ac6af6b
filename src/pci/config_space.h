// ConfigSpace: the configuration registers of one PCI function (header type 0) with BARs and the
// capability list.
//
// A byte array with a mask of the bits that the guest may change; BAR sizing follows from the masks
// alone (PCI 3.0, 6.2.5.1). The 4096 bytes are the PCIe extended space; capabilities live in 0x40
// to 0xff. Threads: none of its own; the device that owns it holds a lock around every call.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/endian.h"
#include "base/result.h"
#include "state/state_stream.h"

namespace strata::pci {

inline constexpr unsigned kConfigSize = 4096;
inline constexpr unsigned kBarCount = 6;

/// Offsets of the registers of a type 0 header. PCI 3.0, 6.1.
struct Register {
    static constexpr unsigned kVendor = 0x00;
    static constexpr unsigned kCommand = 0x04;
    static constexpr unsigned kStatus = 0x06;
    static constexpr unsigned kRevision = 0x08;
    static constexpr unsigned kCacheLine = 0x0c;
    static constexpr unsigned kBar0 = 0x10;
    static constexpr unsigned kSubsystemVendor = 0x2c;
    static constexpr unsigned kCapabilities = 0x34;
    static constexpr unsigned kInterruptLine = 0x3c;
    static constexpr unsigned kInterruptPin = 0x3d;
};

/// Bits of the command register.
struct Command {
    static constexpr std::uint16_t kIo = 1U << 0;
    static constexpr std::uint16_t kMemory = 1U << 1;
    static constexpr std::uint16_t kBusMaster = 1U << 2;
    static constexpr std::uint16_t kIntxDisable = 1U << 10;
};

/// Bits of the status register.
struct Status {
    static constexpr std::uint16_t kInterrupt = 1U << 3;
    static constexpr std::uint16_t kCapabilityList = 1U << 4;
};

/// Who a function says it is.
struct Identity {
    std::uint16_t vendor = 0xffff;
    std::uint16_t device = 0xffff;
    std::uint32_t class_code = 0;  ///< base class, subclass, interface: 0x010802 is an NVMe disk
    std::uint8_t revision = 0;
    std::uint16_t subsystem_vendor = 0;
    std::uint16_t subsystem = 0;
    bool interrupt_pin = false;  ///< uses INTA#
};

enum class BarKind : std::uint8_t { None, Io, Memory32, Memory64 };

/// A base address register. `size` is a power of two, at least 16 (memory) or 4 (I/O).
struct Bar {
    BarKind kind = BarKind::None;
    std::uint64_t size = 0;
    bool prefetchable = false;
};

class ConfigSpace {
  public:
    explicit ConfigSpace(const Identity& identity);

    /// The guest's access; bytes past the end read as all ones and are dropped.
    void read(unsigned offset, std::span<std::byte> data) const;
    void write(unsigned offset, std::span<const std::byte> data);

    /// Registers from our side: no masks.
    template <typename T>
    [[nodiscard]] T get(unsigned offset) const {
        STRATA_CHECK(offset + sizeof(T) <= kConfigSize, "config register out of range");
        EndianInt<T, std::endian::little> wire;
        std::memcpy(&wire, bytes_.data() + offset, sizeof(T));
        return wire;
    }
    template <typename T>
    void set(unsigned offset, T value) {
        STRATA_CHECK(offset + sizeof(T) <= kConfigSize, "config register out of range");
        const EndianInt<T, std::endian::little> wire(value);
        std::memcpy(bytes_.data() + offset, &wire, sizeof(T));
    }
    /// Lets the guest change the bits of `mask` in the register at `offset`.
    template <typename T>
    void make_writable(unsigned offset, T mask) {
        STRATA_CHECK(offset + sizeof(T) <= kConfigSize, "config register out of range");
        const EndianInt<T, std::endian::little> wire(mask);
        std::memcpy(writable_.data() + offset, &wire, sizeof(T));
    }

    /// Declares BAR `index` (a 64-bit one also takes index + 1). Before the guest runs.
    void define_bar(unsigned index, const Bar& bar);
    [[nodiscard]] const Bar& bar(unsigned index) const { return bars_[index]; }
    /// What is programmed into BAR `index`, flags stripped.
    [[nodiscard]] std::uint64_t bar_address(unsigned index) const;
    void set_bar_address(unsigned index, std::uint64_t address);
    /// As bar_address(), if the command register lets the function answer there and the address is
    /// not 0.
    [[nodiscard]] std::optional<std::uint64_t> decoded_bar(unsigned index) const;

    /// Appends a capability of `id` (PCI 3.0, appendix H) with `body` after its id and next
    /// pointer. Answers its offset.
    unsigned add_capability(std::uint8_t id, std::span<const std::byte> body);

    /// Takes the present content as what reset() restores. Call when the function is fully
    /// described.
    void seal() { initial_ = bytes_; }
    void reset() { bytes_ = initial_; }

    /// Inside a section of the caller. load() refuses a space whose read-only bits are another
    /// device's.
    void save(state::StateWriter& writer) const;
    void load(state::StateReader& reader);

  private:
    static constexpr unsigned kSavedBytes = 256;
    std::array<std::byte, kConfigSize> bytes_{};
    std::array<std::byte, kConfigSize> writable_{};
    std::array<std::byte, kConfigSize> initial_{};
    std::array<Bar, kBarCount> bars_{};
    unsigned next_capability_ = 0x40;
    unsigned last_capability_ = Register::kCapabilities;  ///< where the next pointer to fill lies
};

}  // namespace strata::pci
