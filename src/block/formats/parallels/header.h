// ParallelsHeader: the header of Parallels images, checked.
//
// 64 bytes, little-endian, then the block table: 32-bit places, in sectors ("WithoutFreeSpace") or
// in blocks
// ("WithouFreSpacExt"), 0 for none; blocks of `tracks` sectors.
// Format: QEMU's docs/interop/parallels.txt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "block/formats/common/wire.h"

namespace strata::block::parallels {

inline constexpr std::size_t kHeaderBytes = 64;
inline constexpr std::uint64_t kMaxTableBytes = 256ULL << 20;
inline constexpr std::uint32_t kInUse = 0x746F6E59, kClosed = 0x312E3276;
inline constexpr std::uint64_t kInUseField = 44;

struct Header {
    bool extended = true;  ///< table entries count blocks, not sectors
    std::uint32_t heads = 16, cylinders = 0;
    std::uint64_t block = 1U << 20;  ///< bytes
    std::uint32_t entries = 0;
    std::uint64_t size = 0;
    std::uint32_t in_use = 0;
    std::uint64_t data_offset = 0;  ///< bytes; where the first block lies
    std::uint32_t flags = 0;
    std::uint64_t extension = 0;  ///< sectors; 0: none

    [[nodiscard]] bool was_open() const { return in_use == kInUse; }
    /// Bytes that one unit of a table entry stands for.
    [[nodiscard]] std::uint64_t unit() const { return extended ? block : 512; }
    [[nodiscard]] std::uint64_t table_end() const {
        return kHeaderBytes + std::uint64_t{entries} * 4;
    }
};

/// True if `bytes` begin as a Parallels image: for probing.
bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);
std::vector<std::byte> serialise_header(const Header& header);

}  // namespace strata::block::parallels
