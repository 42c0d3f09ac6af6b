// The format "qcow": the first QEMU copy-on-write format, version 1.
#pragma once

#include "block/registry.h"

namespace strata::block::qcow1 {

const FormatDriver& driver();

}  // namespace strata::block::qcow1
