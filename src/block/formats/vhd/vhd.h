// The format "vpc": images of Virtual PC, Hyper-V and Azure (VHD): fixed, dynamic and differencing.
//
// Extra option `force_size_calc`: "chs" or "current_size" names which of the footer's two sizes
// holds.
#pragma once

#include "block/registry.h"

namespace strata::block::vhd {

const FormatDriver& driver();

}  // namespace strata::block::vhd
