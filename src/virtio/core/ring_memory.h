// RingMemory: a part of a ring, mapped once: atomic access to its integers, and its writes reported
// to the dirty log.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace strata::virtio {

/// One physically contiguous piece of guest RAM that driver and device both change.
class RingMemory {
  public:
    RingMemory() = default;

    /// Looks `length` bytes at `address` up. Failed: not aligned to `alignment` or not one piece of
    /// RAM.
    static Result<RingMemory> map(const memory::GuestMemory& memory, memory::GuestAddress address,
                                  std::uint64_t length, std::uint64_t alignment) {
        if (address.value() % alignment != 0) {
            return Error{ErrorKind::Failed, "a virtqueue ring is misaligned"};
        }
        const auto views = STRATA_TRY(memory.slices(address, length, memory::Access::Read));
        if (views.parts().size() != 1) {
            return Error{ErrorKind::Failed, "a virtqueue ring is not contiguous"};
        }
        return RingMemory(memory, address, views.parts().front());
    }

    /// Integers by offset, which the caller keeps in range and aligned.
    [[nodiscard]] std::uint16_t load16(std::size_t offset,
                                       std::memory_order order = std::memory_order_relaxed) const {
        // SAFETY: map() and the caller guarantee range and alignment; guest RAM outlives the queue.
        return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(bytes_.data() + offset))
            .load(order);
    }
    void store16(std::size_t offset, std::uint16_t value,
                 std::memory_order order = std::memory_order_relaxed) const {
        // SAFETY: as load16().
        std::atomic_ref(*reinterpret_cast<std::uint16_t*>(bytes_.data() + offset))
            .store(value, order);
        memory_->wrote(*address_.checked_add(offset), sizeof(value));
    }
    /// Copies a structure; the copy is what the caller works with.
    template <typename T>
    [[nodiscard]] T copy(std::size_t offset) const {
        T value;
        std::memcpy(&value, bytes_.data() + offset, sizeof(T));
        // The guest may write meanwhile: the compiler must not read the ring a second time instead
        // of the copy.
        std::atomic_signal_fence(std::memory_order_seq_cst);
        return value;
    }
    template <typename T>
    void put(std::size_t offset, const T& value) const {
        std::memcpy(bytes_.data() + offset, &value, sizeof(T));
        memory_->wrote(*address_.checked_add(offset), sizeof(T));
    }

  private:
    static_assert(std::endian::native == std::endian::little, "rings are little-endian");
    RingMemory(const memory::GuestMemory& memory, memory::GuestAddress address,
               std::span<std::byte> bytes)
        : memory_(&memory), address_(address), bytes_(bytes) {}

    const memory::GuestMemory* memory_ = nullptr;
    memory::GuestAddress address_;
    std::span<std::byte> bytes_;
};

}  // namespace strata::virtio
