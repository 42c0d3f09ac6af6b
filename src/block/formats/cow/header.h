// CowHeader: the headers of User-Mode Linux' copy-on-write files, versions 1 to 3, checked.
//
// A bitmap of changed sectors (least significant bit first) follows the header, then the data,
// sector n at its own place. Version 1 is in its writer's byte order, 2 and 3 are big-endian.
// Format: Linux, arch/um/drivers/cow_user.c.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace strata::block::cow {

/// The longest header.
inline constexpr std::size_t kMaxHeader = 4160;
inline constexpr std::uint64_t kMaxBitmapBytes = 256ULL << 20;

struct Header {
    std::uint32_t version = 3;
    std::uint64_t size = 0;
    std::uint32_t sector = 512;
    std::uint64_t bitmap_offset = 0, bitmap_bytes = 0, data_offset = 0;
    std::string backing;
};

bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);

}  // namespace strata::block::cow
