// The format "cloop": compressed loop images, for reading.
#pragma once

#include "block/registry.h"

namespace strata::block::cloop {

const FormatDriver& driver();

}  // namespace strata::block::cloop
