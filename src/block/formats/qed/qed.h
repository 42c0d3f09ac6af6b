// The format "qed": QEMU enhanced disks, for reading.
#pragma once

#include "block/registry.h"

namespace strata::block::qed {

const FormatDriver& driver();

}  // namespace strata::block::qed
