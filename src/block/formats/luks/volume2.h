// LUKS 2 volumes: opening them with a passphrase. Their headers are read, not made or changed.
#pragma once

#include <string>

#include "block/formats/luks/header2.h"
#include "block/formats/luks/volume.h"

namespace strata::block::luks {

struct OpenVolume2 {
    Header2 header;
    Secret key{0};
};

Task<Header2> read_header2(Area area);
/// PermissionDenied if the passphrase fits no slot. Argon2 takes the memory that the slot asks for,
/// up to kMaxArgonKib.
Task<OpenVolume2> open_volume2(Area area, std::string passphrase);

std::vector<InfoField> volume_info2(const Header2& header);

}  // namespace strata::block::luks
