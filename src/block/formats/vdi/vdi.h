// The format "vdi": images of VirtualBox.
//
// Extra option `parent`: the file that a differencing image lies over; the image itself names it by
// UUID alone.
#pragma once

#include "block/registry.h"

namespace strata::block::vdi {

const FormatDriver& driver();

}  // namespace strata::block::vdi
