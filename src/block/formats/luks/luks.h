// The format "luks": volumes encrypted with LUKS 1. Extra option `key-secret`, when opening: the
// passphrase.
#pragma once

#include "block/registry.h"

namespace strata::block::luks {

const FormatDriver& driver();
/// What can be changed: keys.
std::span<const CreateOption> amend_options();

}  // namespace strata::block::luks
