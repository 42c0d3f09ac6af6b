// Tar: the members of an archive in a node: ustar, with GNU's and POSIX' long names and sizes.
//
// Nothing is unpacked: a member is a stretch of the archive. Names are text, never paths of the
// host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "block/node.h"

namespace strata::block::archive {

inline constexpr std::size_t kTarBlock = 512;

struct Member {
    std::string name;
    std::uint64_t offset = 0, size = 0;  ///< of its content
};

/// The name in a header of 512 bytes; empty if that is no header with a right checksum.
std::string name_in_header(std::span<const std::byte> header);

/// Tells `each` of the plain files in `file`, in order, `most` members of any kind at most. Stops
/// with its error.
Task<> walk_tar(Node& file, std::uint64_t most, std::function<Result<>(const Member&)> each);

/// The header of a plain file, for writing.
std::vector<std::byte> tar_header(const std::string& name, std::uint64_t size,
                                  std::uint64_t seconds);

}  // namespace strata::block::archive
