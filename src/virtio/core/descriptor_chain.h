// DescriptorChain: the buffers of one request: what the driver gave to read, and where it wants the
// answer.
//
// A chain is parsed and copied once by its queue; the guest cannot change it afterwards. It moves,
// and is given back exactly once: to Virtqueue::push(), or to abandon() when its queue died under
// it (reset). Losing one is our bug and is checked. The addresses are still the guest's: they are
// looked up on access, and an access outside RAM is an Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace strata::virtio {

class DescriptorChain {
  public:
    struct Buffer {
        memory::GuestAddress address;
        std::uint32_t length = 0;
    };

    /// `buffers`: the readable ones, then from place `first_writable` on the writable ones.
    DescriptorChain(const memory::GuestMemory& memory, std::uint16_t head, std::uint16_t slots,
                    std::vector<Buffer> buffers, std::size_t first_writable);
    DescriptorChain(DescriptorChain&& other) noexcept;
    DescriptorChain& operator=(DescriptorChain&& other) noexcept;
    DescriptorChain(const DescriptorChain&) = delete;
    DescriptorChain& operator=(const DescriptorChain&) = delete;
    ~DescriptorChain();

    /// Bytes in the readable and in the writable part.
    [[nodiscard]] std::uint64_t readable() const { return readable_; }
    [[nodiscard]] std::uint64_t writable() const { return writable_; }

    /// Copies out of the readable part from byte `offset` on; Failed if it is shorter.
    Result<> read(std::uint64_t offset, std::span<std::byte> out) const;
    /// Copies into the writable part.
    Result<> write(std::uint64_t offset, std::span<const std::byte> data) const;
    template <typename T>
    requires std::is_trivially_copyable_v<T> Result<T> load(std::uint64_t offset)
    const {
        T value{};
        STRATA_TRY_VOID(read(offset, std::as_writable_bytes(std::span(&value, 1))));
        return value;
    }
    template <typename T>
    requires std::is_trivially_copyable_v<T> Result<> store(std::uint64_t offset, const T& value)
    const { return write(offset, std::as_bytes(std::span(&value, 1))); }

    /// Host views of [offset, offset+length) of the readable or the writable part, appended to
    /// `out`.
    Result<> slices(memory::Access access, std::uint64_t offset, std::uint64_t length,
                    std::vector<memory::GuestSlices>& out) const;

    /// Gives the chain up without telling the guest: only when its queue was reset.
    void abandon() && { memory_ = nullptr; }

  private:
    friend class Virtqueue;
    friend class SplitQueue;
    friend class PackedQueue;
    template <typename Visit>
    Result<> walk(memory::Access access, std::uint64_t offset, std::uint64_t length,
                  Visit visit) const;

    const memory::GuestMemory* memory_;  ///< nullptr once given back
    std::uint16_t head_;                 ///< split: the first descriptor; packed: the buffer id
    std::uint16_t slots_;                ///< packed: ring places taken
    std::vector<Buffer> buffers_;
    std::size_t first_writable_;
    std::uint64_t readable_ = 0;
    std::uint64_t writable_ = 0;
};

}  // namespace strata::virtio
