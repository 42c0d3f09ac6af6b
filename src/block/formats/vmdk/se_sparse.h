// SeSparse: ESXi's space-efficient sparse extents (snapshots since vSphere 6.5 on VMFS 6), read
// only.
//
// A constant header, a volatile one, a directory, tables of 4096 entries of 64 bits, grains of 4
// KiB. The four topmost bits of an entry tell what it is. Format: after QEMU's reader; VMware has
// published none.
#pragma once

#include <string>

#include "block/formats/common/table_node.h"

namespace strata::block::vmdk {

/// The extent in `file`, for at least `size` bytes.
Task<NodePtr> open_se_sparse(NodePtr file, std::string name, std::uint64_t size, NodePtr backing,
                             std::uint64_t backing_shift);

}  // namespace strata::block::vmdk
