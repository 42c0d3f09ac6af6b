// Bus: an address space of devices: one for port I/O, one for MMIO.
//
// Lookup is lock-free on the reading side: the table is an immutable sorted vector behind an atomic
// shared pointer, replaced whole when a device is added, moved (a PCI BAR) or removed. Unclaimed
// reads answer all ones, unclaimed writes are dropped, as on a PC. Accesses that straddle a
// device's end go to the device at the first byte, cut.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "bus/bus_device.h"

namespace strata::bus {

class Bus {
  public:
    Bus();
    ~Bus();

    /// Claims [start, start+size) for `device`. AlreadyExists if any of it is taken. The device
    /// outlives its claim; an access that is under way when remove() returns may still finish, so
    /// devices live until all vCPUs stopped.
    Result<> add(std::uint64_t start, std::uint64_t size, BusDevice& device);
    /// Gives the claim at `start` up.
    void remove(std::uint64_t start);

    /// Carries an access of 1 to 8 bytes. Any vCPU thread. True if a device answered.
    bool read(std::uint64_t address, std::span<std::byte> data) const;
    bool write(std::uint64_t address, std::span<const std::byte> data) const;

  private:
    struct Claim {
        std::uint64_t start;
        std::uint64_t size;
        BusDevice* device;
    };
    using Table = std::vector<Claim>;
    [[nodiscard]] static const Claim* find(const Table& table, std::uint64_t address);

    mutable Mutex mutex_;
    /// Published with release, read with acquire; old tables are kept in tables_ until the bus dies
    /// (they are few and small: one per BAR move), so readers need no reference count.
    std::atomic<const Table*> current_;
    std::vector<std::unique_ptr<Table>> tables_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::bus
