// The format "bochs": Bochs' growing images, for reading.
#pragma once

#include "block/registry.h"

namespace strata::block::bochs {

const FormatDriver& driver();

}  // namespace strata::block::bochs
