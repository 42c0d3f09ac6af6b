// Wire: wire structures of virtio-net. VIRTIO 1.2, 5.1.
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace strata::virtio::net_wire {

struct Features {
    static constexpr std::uint64_t kChecksum =
        1ULL << 0;  ///< the driver may leave checksums to the device
    static constexpr std::uint64_t kGuestChecksum =
        1ULL << 1;  ///< the driver takes frames marked as checked
    static constexpr std::uint64_t kMac = 1ULL << 5;
    static constexpr std::uint64_t kMergeReceive = 1ULL << 15;
    static constexpr std::uint64_t kStatus = 1ULL << 16;
    static constexpr std::uint64_t kControl = 1ULL << 17;
    static constexpr std::uint64_t kControlReceive = 1ULL << 18;
    static constexpr std::uint64_t kControlMac = 1ULL << 23;
};

/// VIRTIO 1.2, 5.1.4: the part that exists with our features.
struct Config {
    std::uint8_t mac[6];
    Le16 status;
    Le16 max_virtqueue_pairs;
    Le16 mtu;
};
static_assert(sizeof(Config) == 12);

/// VIRTIO 1.2, 5.1.6.
struct Header {
    std::uint8_t flags = 0;
    std::uint8_t gso_type = 0;
    Le16 header_length;
    Le16 gso_size;
    Le16 checksum_start;
    Le16 checksum_offset;
    Le16 buffers;
};
static_assert(sizeof(Header) == 12);

struct HeaderFlags {
    static constexpr std::uint8_t kNeedsChecksum = 1;
    static constexpr std::uint8_t kDataValid = 2;
};

/// Control commands. VIRTIO 1.2, 5.1.6.5.
struct Control {
    static constexpr std::uint8_t kClassReceive = 0;
    static constexpr std::uint8_t kClassMac = 1;
    static constexpr std::uint8_t kMacTableSet = 0;
    static constexpr std::uint8_t kMacAddressSet = 1;
    static constexpr std::uint8_t kLastReceive = 5;
    static constexpr std::uint8_t kOk = 0;
    static constexpr std::uint8_t kError = 1;
};

}  // namespace strata::virtio::net_wire
