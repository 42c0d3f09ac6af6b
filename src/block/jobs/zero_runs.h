// ZeroRuns: cuts a buffer into stretches of data and of zeros, for writers that leave holes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace strata::block {

class ZeroRuns {
  public:
    struct Run {
        std::size_t offset = 0, length = 0;
        bool zero = false;
    };
    /// Zeros are a run of their own from `sparse` bytes on. Cuts lie at multiples of `alignment` (a
    /// power of two) of the disk, of which `bytes` begins at `disk_offset`.
    ZeroRuns(std::span<const std::byte> bytes, std::uint64_t disk_offset, std::uint64_t sparse,
             std::uint64_t alignment)
        : bytes_(bytes), disk_offset_(disk_offset), sparse_(sparse), alignment_(alignment) {}
    /// The next run; nothing at the end.
    std::optional<Run> next();

  private:
    /// The stretch of grains at `at` that are all zero, or all not.
    [[nodiscard]] Run uniform(std::size_t at) const;
    std::span<const std::byte> bytes_;
    std::uint64_t disk_offset_, sparse_, alignment_;
    std::size_t at_ = 0;
};

}  // namespace strata::block
