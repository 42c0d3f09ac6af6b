// FwCfg: items and their reading.
#include "machine/pc/fw_cfg.h"

#include <algorithm>
#include <cstring>

namespace strata::machine::pc {
namespace {

enum Key : std::uint16_t {
    kSignature = 0x00,
    kId = 0x01,
    kRamSize = 0x03,
    kCpus = 0x05,
    kMaxCpus = 0x0f
};

std::vector<std::byte> little_endian(std::uint64_t value, std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) {
        bytes[i] = static_cast<std::byte>(value >> (8 * i));
    }
    return bytes;
}

}  // namespace

FwCfg::FwCfg(std::uint32_t vcpus, std::uint64_t memory_bytes)
    : items_{{kSignature, little_endian(0x554d4551, 4)},  // "QEMU"
             {kId, little_endian(1, 4)},                  // the traditional interface
             {kRamSize, little_endian(memory_bytes, 8)},
             {kCpus, little_endian(vcpus, 2)},
             {kMaxCpus, little_endian(vcpus, 2)}} {}

void FwCfg::read(std::uint64_t offset, std::span<std::byte> data) {
    std::fill(data.begin(), data.end(), std::byte{0});
    if (offset != 1 || data.size() != 1) {
        return;
    }
    const MutexLock lock(mutex_);
    const std::uint16_t wanted = selected_;
    const auto item = std::find_if(items_.begin(), items_.end(),
                                   [&](const Item& each) { return each.key == wanted; });
    if (item != items_.end() && position_ < item->bytes.size()) {
        data[0] = item->bytes[position_++];
    }
}

void FwCfg::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset != 0 || data.size() != 2) {
        return;
    }
    const MutexLock lock(mutex_);
    selected_ = static_cast<std::uint16_t>(std::to_integer<unsigned>(data[0]) |
                                           std::to_integer<unsigned>(data[1]) << 8);
    position_ = 0;
}

}  // namespace strata::machine::pc
