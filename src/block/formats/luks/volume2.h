// LUKS 2 volumes: making them, and opening them with a passphrase. Keys are not added or changed.
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

/// A volume to be: of `plan` the cipher, the hash, the time and the passphrase count.
struct NewVolume2 {
    NewVolume plan;
    std::string kdf = "argon2id";  ///< or "argon2i", "pbkdf2"
};
struct MadeVolume2 {
    Header2 header;
    std::vector<std::byte> start;     ///< both headers, from the first byte on
    std::vector<std::byte> material;  ///< at the slot's offset
    Secret key{0};
};
/// Where the data of a new volume begins.
inline constexpr std::uint64_t kPayload2 = 16U << 20;
/// Makes the headers of a volume with one key.
Task<MadeVolume2> make_volume2(Loop& loop, NewVolume2 wanted);

std::vector<InfoField> volume_info2(const Header2& header);

}  // namespace strata::block::luks
