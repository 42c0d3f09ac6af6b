// The format "dmg": Apple's disk images (UDIF), for reading.
#pragma once

#include "block/registry.h"

namespace strata::block::dmg {

const FormatDriver& driver();

}  // namespace strata::block::dmg
