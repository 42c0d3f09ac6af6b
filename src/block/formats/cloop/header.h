// CloopHeader: the header and offset table of compressed loop images (cloop 2), checked.
//
// A shell script of 128 bytes, block size and count (big-endian), count + 1 offsets; each block is
// a zlib stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::cloop {

inline constexpr std::size_t kHeaderBytes = 136;
inline constexpr std::uint32_t kMaxBlock = 64U << 20;
inline constexpr std::uint64_t kMaxTableBytes = 512ULL << 20;

struct Header {
    std::uint32_t block = 0, blocks = 0;
    [[nodiscard]] std::uint64_t size() const { return std::uint64_t{block} * blocks; }
    [[nodiscard]] std::uint64_t table_bytes() const { return (std::uint64_t{blocks} + 1) * 8; }
};

bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);
/// Where each block begins; blocks.size() is blocks + 1. They ascend and none is longer than a
/// block can compress to.
Result<std::vector<std::uint64_t>> parse_offsets(std::span<const std::byte> bytes,
                                                 const Header& header, std::string_view name);

}  // namespace strata::block::cloop
