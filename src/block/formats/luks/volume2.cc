// LUKS 2 volumes: slots tried one after the other.
#include "block/formats/luks/volume2.h"

#include <algorithm>
#include <cerrno>

#include <argon2.h>
#include <fmt/format.h>
#include <openssl/crypto.h>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/volume_key.h"

namespace strata::block::luks {
namespace {

Result<Secret> derive_key(const Kdf& kdf, std::string_view passphrase, std::size_t length) {
    Secret key(length);
    if (kdf.type == "pbkdf2") {
        STRATA_TRY_VOID(pbkdf2(kdf.hash, std::as_bytes(std::span(passphrase)), kdf.salt,
                               kdf.iterations, key.bytes()));
        return key;
    }
    const auto hash = kdf.type == "argon2i" ? &argon2i_hash_raw : &argon2id_hash_raw;
    const int code = hash(kdf.passes, kdf.kib, kdf.threads, passphrase.data(), passphrase.size(),
                          kdf.salt.data(), kdf.salt.size(), key.bytes().data(), length);
    if (code != ARGON2_OK) {
        return Error{ErrorKind::Failed,
                     fmt::format("deriving a key failed: {}", argon2_error_message(code)),
                     code == ARGON2_MEMORY_ALLOCATION_ERROR ? ENOMEM : EIO};
    }
    return key;
}

/// The part of "aes-xts-plain64" before the first dash, and the one behind it.
std::pair<std::string, std::string> cipher_and_mode(const std::string& encryption) {
    const std::size_t dash = std::min(encryption.find('-'), encryption.size());
    return {encryption.substr(0, dash), encryption.substr(std::min(dash + 1, encryption.size()))};
}

/// PermissionDenied: the passphrase is another slot's.
Result<Secret> try_slot(const Header2& header, const Slot2& slot, std::vector<std::byte> material,
                        std::string_view passphrase) {
    const Secret area_key = STRATA_TRY(derive_key(slot.kdf, passphrase, slot.area_key_bytes));
    const auto [cipher_name, mode] = cipher_and_mode(slot.encryption);
    const auto cipher = STRATA_TRY(SectorCipher::create(cipher_name, mode, area_key.bytes()));
    STRATA_TRY_VOID(cipher.decrypt(0, material));
    Secret key = STRATA_TRY(merge_stripes(slot.af_hash, slot.key_bytes, slot.stripes, material));
    OPENSSL_cleanse(material.data(), material.size());
    for (const Digest2& digest : header.digests) {
        if (!digest.slots.contains(std::to_string(slot.number))) {
            continue;
        }
        Secret check(digest.digest.size());
        STRATA_TRY_VOID(
            pbkdf2(digest.hash, key.bytes(), digest.salt, digest.iterations, check.bytes()));
        if (CRYPTO_memcmp(check.bytes().data(), digest.digest.data(), digest.digest.size()) == 0) {
            return key;
        }
    }
    return Error{ErrorKind::PermissionDenied, "the passphrase is wrong", EACCES};
}

}  // namespace

Task<Header2> read_header2(Area area) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*area.file, area.offset,
                                                        std::min(area.length, kMaxHeader2 * 2)));
    co_return parse_header2(bytes, area.length, area.name);
}

Task<OpenVolume2> open_volume2(Area area, std::string passphrase) {
    STRATA_CO_TRY(const Header2 header, co_await read_header2(area));
    for (const Slot2& slot : header.slots) {
        const std::uint64_t length = round_up(std::uint64_t{slot.stripes} * slot.key_bytes, 512);
        STRATA_CO_TRY(auto material,
                      co_await read_bytes(*area.file, area.offset + slot.offset, length));
        Result<Secret> key = co_await area.file->loop().offload(
            [&] { return try_slot(header, slot, std::move(material), passphrase); });
        if (key.ok()) {
            co_return OpenVolume2{header, std::move(*key)};
        }
        if (key.error().kind() != ErrorKind::PermissionDenied) {
            co_return key.error();
        }
    }
    co_return Error{ErrorKind::PermissionDenied, "Invalid password, cannot unlock any keyslot",
                    EACCES};
}

std::vector<InfoField> volume_info2(const Header2& h) {
    std::vector<InfoField> fields{{"version", "version", std::int64_t{2}},
                                  {"uuid", "uuid", h.uuid},
                                  {"encryption", "encryption", h.encryption}};
    std::vector<std::vector<InfoField>> slots;
    for (const Slot2& slot : h.slots) {
        slots.push_back({{"number", "number", std::int64_t{slot.number}},
                         {"kdf", "kdf", slot.kdf.type},
                         {"key-offset", "key offset", static_cast<std::int64_t>(slot.offset)}});
    }
    fields.push_back({"slots", "slots", std::move(slots)});
    fields.push_back({"payload-offset", "payload offset", static_cast<std::int64_t>(h.payload)});
    fields.push_back({"sector-size", "sector size", std::int64_t{h.sector}});
    return fields;
}

}  // namespace strata::block::luks
