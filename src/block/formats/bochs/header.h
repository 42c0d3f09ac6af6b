// BochsHeader: the header of Bochs' growing images, checked.
//
// 512 bytes, little-endian; a catalog of 32-bit extent indexes; each extent is a bitmap of its
// sectors, then the sectors. Format: Bochs' iodev/hdimage/hdimage.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace strata::block::bochs {

inline constexpr std::size_t kHeaderBytes = 512;
inline constexpr std::uint32_t kUnallocated = 0xFFFFFFFF;

struct Header {
    std::uint32_t header = 512;  ///< bytes; the catalog follows
    std::uint32_t catalog = 0;   ///< entries
    std::uint32_t bitmap = 0;    ///< bytes
    std::uint32_t extent = 0;    ///< bytes of data
    std::uint64_t size = 0;

    [[nodiscard]] std::uint64_t bitmap_bytes() const {
        return (std::uint64_t{bitmap} + 511) / 512 * 512;
    }
    [[nodiscard]] std::uint64_t stride() const { return bitmap_bytes() + extent; }
    [[nodiscard]] std::uint64_t data_offset() const { return header + std::uint64_t{catalog} * 4; }
};

bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);

}  // namespace strata::block::bochs
