// GuestMemory: how devices reach guest RAM. Always by guest physical address, never showing
// regions.
//
// Every access names what it wants (read or write); writes mark dirty pages themselves and tell the
// WriteObserver about pages that hold translated code, so a device's DMA into code is seen by the
// software CPU. RAM can change under a reader at any time: copy once, validate the copy, use only
// the copy. Threads: all of it may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.h"
#include "memory/guest_address.h"

namespace strata::memory {

enum class Access { Read, Write };

class GuestMemory;

/// Host views of a guest range for zero-copy I/O. A Write view reports its range as written when it
/// is destroyed.
class GuestSlices {
  public:
    GuestSlices() = default;
    GuestSlices(const GuestMemory& memory, GuestAddress address, std::uint64_t length,
                Access access, std::vector<std::span<std::byte>> parts)
        : memory_(&memory),
          address_(address),
          length_(length),
          access_(access),
          parts_(std::move(parts)) {}
    GuestSlices(GuestSlices&& other) noexcept;
    GuestSlices& operator=(GuestSlices&& other) noexcept;
    GuestSlices(const GuestSlices&) = delete;
    GuestSlices& operator=(const GuestSlices&) = delete;
    ~GuestSlices() { release(); }

    [[nodiscard]] const std::vector<std::span<std::byte>>& parts() const { return parts_; }
    [[nodiscard]] std::uint64_t length() const { return length_; }

  private:
    void release();
    const GuestMemory* memory_ = nullptr;
    GuestAddress address_;
    std::uint64_t length_ = 0;
    Access access_ = Access::Read;
    std::vector<std::span<std::byte>> parts_;
};

/// Guest RAM as devices see it. Errors are NotFound: the range is not wholly RAM.
class GuestMemory {
  public:
    virtual ~GuestMemory() = default;

    /// Copies out of, into guest RAM. On error nothing may be assumed about how much was copied.
    virtual Result<> read(GuestAddress address, std::span<std::byte> out) const = 0;
    virtual Result<> write(GuestAddress address, std::span<const std::byte> data) const = 0;

    /// Host views of the range, one per region it crosses. They stay valid as long as the memory
    /// itself.
    virtual Result<GuestSlices> slices(GuestAddress address, std::uint64_t length,
                                       Access access) const = 0;

    /// Marks a range as written: dirty log and code invalidation. For writers that used slices().
    virtual void wrote(GuestAddress address, std::uint64_t length) const = 0;

    /// Reads or writes a wire structure or integer.
    template <typename T>
    requires std::is_trivially_copyable_v<T> Result<T> load(GuestAddress address)
    const {
        T value;
        STRATA_TRY_VOID(read(address, std::as_writable_bytes(std::span(&value, 1))));
        return value;
    }
    template <typename T>
    requires std::is_trivially_copyable_v<T> Result<> store(GuestAddress address, const T& value)
    const { return write(address, std::as_bytes(std::span(&value, 1))); }
};

}  // namespace strata::memory
