// KvmTestDevice: its three ranges.
#include "devices/misc/kvm_test_device.h"

#include <algorithm>
#include <utility>

#include "devices/core/windows.h"

namespace strata::devices {

KvmTestDevice::KvmTestDevice(std::function<bus::IrqLine&(std::uint32_t gsi)> gsi)
    : lines_(std::move(gsi)) {}

void KvmTestDevice::Lines::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    from_integer(~std::uint64_t{0}, data);
}

void KvmTestDevice::Lines::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset < kLines) {
        gsi_(static_cast<std::uint32_t>(offset)).set(to_integer(data) != 0);
    }
}

void KvmTestDevice::Scratch::read(std::uint64_t offset, std::span<std::byte> data) {
    const MutexLock lock(mutex_);
    for (std::byte& byte : data) {
        byte = offset < bytes_.size() ? bytes_[offset] : std::byte{0xff};
        ++offset;
    }
}

void KvmTestDevice::Scratch::write(std::uint64_t offset, std::span<const std::byte> data) {
    const MutexLock lock(mutex_);
    for (const std::byte byte : data) {
        if (offset < bytes_.size()) {
            bytes_[offset] = byte;
        }
        ++offset;
    }
}

}  // namespace strata::devices
