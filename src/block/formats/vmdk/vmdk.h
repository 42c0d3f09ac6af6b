// The format "vmdk": VMware's disks: sparse and flat, in one file or split, compressed streams,
// ESX's sparse extents.
#pragma once

#include "block/registry.h"

namespace strata::block::vmdk {

const FormatDriver& driver();

}  // namespace strata::block::vmdk
