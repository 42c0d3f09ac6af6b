// LUKS volumes: making their headers, opening them with a passphrase, changing their key slots,
// wherever the header lies: at the start of a file, or in an image of another format.
//
// Options have QEMU's names: cipher-alg, cipher-mode, ivgen-alg, ivgen-hash-alg, hash-alg,
// iter-time (milliseconds), key-secret, and for changes state, keyslot, old-secret, new-secret.
// Those that name secrets hold the passphrase itself here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/luks/header.h"
#include "block/formats/luks/sector_cipher.h"
#include "block/image_info.h"
#include "block/node.h"
#include "block/registry.h"

namespace strata::block::luks {

/// Where a header with its key material lies.
struct Area {
    Node* file = nullptr;
    std::uint64_t offset = 0, length = 0;
    std::string name;  ///< of the image, for messages
};

struct OpenVolume {
    Header header;
    Secret key{0};
};

/// A volume to be.
struct NewVolume {
    Header header;
    std::uint64_t milliseconds = 2000;
    std::string passphrase;
};

struct MadeVolume {
    std::vector<std::byte> bytes;  ///< header.payload of them
    Header header;
    Secret key{0};
};

/// Reads the options whose names begin with `prefix`.
Result<NewVolume> plan_volume(const CreateRequest& request, std::string_view prefix);
Task<MadeVolume> make_volume(Loop& loop, NewVolume plan);

Task<Header> read_header(Area area);
/// PermissionDenied if the passphrase fits no slot.
Task<OpenVolume> open_volume(Area area, std::string passphrase);
/// Adds or erases keys; `passphrase`: one that fits now. The last key is erased only if `force`,
/// and never overwritten.
Task<> change_keys(Area area, OptionList options, std::string prefix, std::string passphrase,
                   bool force);

/// What `info` tells of a volume.
std::vector<InfoField> volume_info(const Header& header);

}  // namespace strata::block::luks
