// XvaBlocks: which member of an XVA archive is which block of which disk.
//
// "Ref:12/00000000" is the first MiB of disk Ref:12; blocks that are left out, or empty, are zeros.
// Behind each there is its checksum (".checksum": SHA-1 in hexadecimal; ".xxhash"). ova.xml tells
// how large a disk is.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace strata::block::xva {

inline constexpr std::uint64_t kBlock = 1U << 20;
/// A disk of 64 TiB; an archive with 4 TiB of blocks, each with its checksum.
inline constexpr std::uint64_t kMaxBlocks = 1ULL << 26, kMaxMembers = 1ULL << 23;

struct BlockName {
    std::string disk;
    std::uint64_t block = 0;
    std::string_view ending;  ///< "", ".checksum", ".xxhash" …
};
/// Nothing if it is no block's name.
std::optional<BlockName> parse_block_name(std::string_view name);

/// The sizes of disks, by their names, as ova.xml has them.
Result<std::map<std::string, std::uint64_t>> parse_disk_sizes(std::string_view text,
                                                              std::string_view name);

}  // namespace strata::block::xva
