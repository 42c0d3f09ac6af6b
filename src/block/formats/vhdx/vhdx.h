// The format "vhdx": images of Hyper-V: fixed and dynamic for reading and writing, differencing for
// reading.
//
// A log that an interrupted writer left is replayed: into the file when that is opened for writing,
// else in memory.
#pragma once

#include "block/registry.h"

namespace strata::block::vhdx {

const FormatDriver& driver();

}  // namespace strata::block::vhdx
