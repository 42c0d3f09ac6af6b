// The format "cow": User-Mode Linux' copy-on-write files, for reading.
#pragma once

#include "block/registry.h"

namespace strata::block::cow {

const FormatDriver& driver();

}  // namespace strata::block::cow
