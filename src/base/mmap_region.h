// MmapRegion: the one owner of a memory mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/mman.h>

#include "base/result.h"

namespace strata {

/// Owns a range made by mmap and unmaps it.
class MmapRegion {
  public:
    MmapRegion() = default;
    MmapRegion(MmapRegion&& other) noexcept;
    MmapRegion& operator=(MmapRegion&& other) noexcept;
    MmapRegion(const MmapRegion&) = delete;
    MmapRegion& operator=(const MmapRegion&) = delete;
    ~MmapRegion();

    /// Maps `size` bytes of `fd` from `offset` (`fd` -1: anonymous memory). `protection` and
    /// `flags` as for mmap(2).
    static Result<MmapRegion> map(std::size_t size, int protection, int flags, int fd = -1,
                                  std::uint64_t offset = 0);

    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }
    [[nodiscard]] bool valid() const { return data_ != nullptr; }

  private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace strata
