// FatBoot: the first sectors of a FAT disk: partition table, boot sector, FAT32's information.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "block/protocols/fat/names.h"
#include "block/protocols/fat/volume.h"

namespace strata::block::fat {

/// The sector with the partition table.
std::vector<std::byte> partition_table(const Geometry& geometry, std::uint32_t id);
/// All reserved sectors of the volume. `next`: the first cluster that is free.
std::vector<std::byte> reserved_sectors(const Geometry& geometry, const ShortName& label,
                                        std::uint32_t id, std::uint32_t next);

}  // namespace strata::block::fat
