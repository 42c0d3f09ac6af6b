// Wire facts of VIRTIO 1.2 that all devices share: status bits, features, device types, ring
// structures.
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace strata::virtio {

/// Device types. VIRTIO 1.2, 5.
enum class DeviceType : std::uint16_t { Net = 1, Block = 2, Console = 3, Entropy = 4, Scsi = 8 };

/// Bits of the device status register. VIRTIO 1.2, 2.1.
struct DeviceStatus {
    static constexpr std::uint8_t kAcknowledge = 1;
    static constexpr std::uint8_t kDriver = 2;
    static constexpr std::uint8_t kDriverOk = 4;
    static constexpr std::uint8_t kFeaturesOk = 8;
    static constexpr std::uint8_t kNeedsReset = 64;
    static constexpr std::uint8_t kFailed = 128;
};

/// Feature bits that belong to no device type. VIRTIO 1.2, 6.
struct Feature {
    static constexpr std::uint64_t kIndirect = 1ULL << 28;
    static constexpr std::uint64_t kEventIndex = 1ULL << 29;
    static constexpr std::uint64_t kVersion1 = 1ULL << 32;
    static constexpr std::uint64_t kRingPacked = 1ULL << 34;
    static constexpr std::uint64_t kRingReset = 1ULL << 40;
};

/// A descriptor of a split ring. VIRTIO 1.2, 2.7.5.
struct Descriptor {
    Le64 address;
    Le32 length;
    Le16 flags;
    Le16 next;
};
static_assert(sizeof(Descriptor) == 16);

struct DescriptorFlags {
    static constexpr std::uint16_t kNext = 1;
    static constexpr std::uint16_t kWrite = 2;
    static constexpr std::uint16_t kIndirect = 4;
};

/// An entry of the used ring. VIRTIO 1.2, 2.7.8.
struct UsedElement {
    Le32 id;
    Le32 length;
};
static_assert(sizeof(UsedElement) == 8);

}  // namespace strata::virtio
