// File access: opening image files and moving whole ranges: no short reads and writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "block/disk_image.h"

namespace strata::block {

/// Opens (or takes over) and locks the file of `options`; FIFOs and other oddities are refused.
Result<UniqueFd> open_image_file(DiskOptions& options);
/// Bytes in a regular file or on a block device.
Result<std::uint64_t> file_size(int fd, std::string_view name);
/// Reads all of `into`; what lies past the end of the file reads as zeros.
Result<> read_file(int fd, std::uint64_t offset, std::span<std::byte> into, std::string_view name);
Result<> write_file(int fd, std::uint64_t offset, std::span<const std::byte> from,
                    std::string_view name);
Result<> sync_file(int fd, std::string_view name);

}  // namespace strata::block
