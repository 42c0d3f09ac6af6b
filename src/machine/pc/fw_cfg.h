// FwCfg: the few items of QEMU's firmware configuration device that bare test programs
// (kvm-unit-tests) ask for.
//
// QEMU's docs/specs/fw_cfg: a 16-bit selector at port 510h, data bytes at 511h, read from the
// item's start after each selection. Part of the test devices only; ordinary guests learn
// everything from ACPI. It holds no state that outlives an item's read.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "bus/bus_device.h"

namespace strata::machine::pc {

class FwCfg final : public bus::BusDevice {
  public:
    static constexpr std::uint16_t kPort = 0x510;
    static constexpr std::uint64_t kSize = 2;

    FwCfg(std::uint32_t vcpus, std::uint64_t memory_bytes);

    [[nodiscard]] std::string_view label() const override { return "fw-cfg"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    struct Item {
        std::uint16_t key;
        std::vector<std::byte> bytes;
    };
    std::vector<Item> items_;
    Mutex mutex_;
    std::uint16_t selected_ STRATA_GUARDED_BY(mutex_) = 0xffff;
    std::size_t position_ STRATA_GUARDED_BY(mutex_) = 0;
};

}  // namespace strata::machine::pc
