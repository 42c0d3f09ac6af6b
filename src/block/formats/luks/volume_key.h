// The volume key of a LUKS 1 volume: out of a key slot, with a passphrase.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/formats/luks/header.h"
#include "block/formats/luks/sector_cipher.h"

namespace strata::block::luks {

/// The key in `slot`, whose `material` (stripes * key_bytes, whole sectors) was read, if `passphrase` is right: PermissionDenied if not.
/// Takes as long as the slot's iterations do: for a worker thread.
Result<Secret> open_slot(const Header& header, const Slot& slot, std::vector<std::byte> material, std::string_view passphrase);

}  // namespace strata::block::luks
