// Wire: wire structures of virtio over PCI. VIRTIO 1.2, 4.1.4.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/endian.h"

namespace strata::virtio {

/// The common configuration structure. VIRTIO 1.2, 4.1.4.3.
struct PciCommonConfig {
    Le32 device_feature_select;
    Le32 device_feature;
    Le32 driver_feature_select;
    Le32 driver_feature;
    Le16 config_msix_vector;
    Le16 num_queues;
    std::uint8_t device_status = 0;
    std::uint8_t config_generation = 0;
    Le16 queue_select;
    Le16 queue_size;
    Le16 queue_msix_vector;
    Le16 queue_enable;
    Le16 queue_notify_off;
    Le64 queue_desc;
    Le64 queue_driver;
    Le64 queue_device;
    Le16 queue_notify_data;
    Le16 queue_reset;
};
static_assert(sizeof(PciCommonConfig) == 0x3c && offsetof(PciCommonConfig, queue_desc) == 0x20);

/// A vendor capability after its id and next pointer. VIRTIO 1.2, 4.1.4.
struct PciCapability {
    std::uint8_t length = 0;  ///< of the whole capability
    std::uint8_t type = 0;
    std::uint8_t bar = 0;
    std::uint8_t id = 0;
    std::uint8_t padding[2];
    Le32 offset;
    Le32 size;
};
static_assert(sizeof(PciCapability) == 14);

struct PciCapabilityType {
    static constexpr std::uint8_t kCommon = 1;
    static constexpr std::uint8_t kNotify = 2;
    static constexpr std::uint8_t kIsr = 3;
    static constexpr std::uint8_t kDevice = 4;
    static constexpr std::uint8_t kPciConfig = 5;
};

inline constexpr std::uint16_t kNoVector = 0xffff;

}  // namespace strata::virtio
