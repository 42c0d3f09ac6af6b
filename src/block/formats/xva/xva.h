// XVA: XenServer's exports, a tar archive of blocks of 1 MiB; its disks are read where they lie in
// it, and written once, in order.
#pragma once

#include "block/registry.h"

namespace strata::block::xva {

const FormatDriver& driver();

}  // namespace strata::block::xva
