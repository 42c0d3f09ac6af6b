// Bus: claims and dispatch.
#include "bus/bus.h"

#include <algorithm>
#include <atomic>

#include <fmt/format.h>

namespace strata::bus {

Bus::Bus() : current_(nullptr) {
    tables_.push_back(std::make_unique<Table>());
    current_.store(tables_.back().get(), std::memory_order_release);
}

Bus::~Bus() = default;

Result<> Bus::add(std::uint64_t start, std::uint64_t size, BusDevice& device) {
    const MutexLock lock(mutex_);
    auto next = std::make_unique<Table>(*tables_.back());
    const auto place =
        std::upper_bound(next->begin(), next->end(), start,
                         [](std::uint64_t at, const Claim& claim) { return at < claim.start; });
    const bool hits_next = place != next->end() && place->start - start < size;
    const bool hits_previous =
        place != next->begin() && start - std::prev(place)->start < std::prev(place)->size;
    if (size == 0 || hits_next || hits_previous) {
        return Error{ErrorKind::AlreadyExists, fmt::format("bus range {:#x}+{:#x} of {} is taken",
                                                           start, size, device.label())};
    }
    next->insert(place, Claim{start, size, &device});
    current_.store(next.get(), std::memory_order_release);
    tables_.push_back(std::move(next));
    return ok();
}

void Bus::remove(std::uint64_t start) {
    const MutexLock lock(mutex_);
    auto next = std::make_unique<Table>(*tables_.back());
    std::erase_if(*next, [start](const Claim& claim) { return claim.start == start; });
    current_.store(next.get(), std::memory_order_release);
    tables_.push_back(std::move(next));
}

const Bus::Claim* Bus::find(const Table& table, std::uint64_t address) {
    const auto place =
        std::upper_bound(table.begin(), table.end(), address,
                         [](std::uint64_t at, const Claim& claim) { return at < claim.start; });
    if (place == table.begin()) {
        return nullptr;
    }
    const Claim& claim = *std::prev(place);
    return address - claim.start < claim.size ? &claim : nullptr;
}

bool Bus::read(std::uint64_t address, std::span<std::byte> data) const {
    std::fill(data.begin(), data.end(), std::byte{0xff});
    const Claim* claim = find(*current_.load(std::memory_order_acquire), address);
    if (claim == nullptr) {
        return false;
    }
    const std::uint64_t offset = address - claim->start;
    claim->device->read(offset,
                        data.first(std::min<std::uint64_t>(data.size(), claim->size - offset)));
    return true;
}

bool Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
    const Claim* claim = find(*current_.load(std::memory_order_acquire), address);
    if (claim == nullptr) {
        return false;
    }
    const std::uint64_t offset = address - claim->start;
    claim->device->write(offset,
                         data.first(std::min<std::uint64_t>(data.size(), claim->size - offset)));
    return true;
}

}  // namespace strata::bus
