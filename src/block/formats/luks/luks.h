// The format "luks": volumes encrypted with LUKS 1: reading and writing the payload. Extra option `key`: the passphrase.
#pragma once

#include "block/registry.h"

namespace strata::block::luks {

const FormatDriver& driver();

}  // namespace strata::block::luks
