// ParallelsBundle: DiskDescriptor.xml of a .hdd folder, checked: which files make up a disk.
//
// A disk is one stretch ("storage") behind the other; each has a file for every snapshot, chained
// by GUIDs from the top one down. Format: QEMU's docs/interop/prl-xml.txt.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::parallels {

struct BundleFile {
    std::string name;
    bool plain = false;  ///< the bytes themselves; else an image with a table
};
struct Storage {
    std::uint64_t start = 0, size = 0;  ///< bytes
    std::vector<BundleFile> layers;     ///< the top one first
};
/// Without gaps, in order.
Result<std::vector<Storage>> parse_bundle(std::string_view text, std::string_view name);
/// True if the file begins as one: for opening.
bool is_bundle(std::string_view start);

}  // namespace strata::block::parallels
