// OVA: a virtual appliance, a tar archive with a description (OVF) first; its disks are read where
// they lie in it.
#pragma once

#include "block/registry.h"

namespace strata::block::ova {

const FormatDriver& driver();

}  // namespace strata::block::ova
