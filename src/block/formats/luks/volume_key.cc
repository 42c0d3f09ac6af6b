// The volume key of a LUKS 1 volume: PBKDF2, the slot's cipher, the merge of the stripes.
#include "block/formats/luks/volume_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"

namespace strata::block::luks {
namespace {

// SAFETY: the library's interface is of unsigned char.
unsigned char* raw(std::span<std::byte> bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }
const unsigned char* raw(std::span<const std::byte> bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

const EVP_MD* digest_of(std::string_view name) {
    return name == "sha1" ? EVP_sha1() : name == "sha256" ? EVP_sha256() : name == "sha512" ? EVP_sha512() : nullptr;
}

bool derive(const EVP_MD* digest, std::span<const std::byte> secret, std::span<const std::byte> salt, std::uint32_t iterations, std::span<std::byte> out) {
    // SAFETY: bytes as characters.
    return PKCS5_PBKDF2_HMAC(reinterpret_cast<const char*>(secret.data()), static_cast<int>(secret.size()), raw(salt), static_cast<int>(salt.size()),
                             static_cast<int>(iterations), digest, static_cast<int>(out.size()), raw(out)) == 1;
}

/// Spreads every bit of `block` over all of it: each digest's worth becomes the hash of its number and itself.
bool diffuse(const EVP_MD* digest, std::span<std::byte> block) {
    const auto length = static_cast<std::size_t>(EVP_MD_get_size(digest));
    std::uint32_t number = 0;
    for (std::size_t at = 0; at < block.size(); at += length, ++number) {
        const std::size_t part = std::min(length, block.size() - at);
        const Be32 prefix(number);
        Secret input(sizeof prefix + part), hash(EVP_MAX_MD_SIZE);
        std::memcpy(input.bytes().data(), &prefix, sizeof prefix);
        std::memcpy(input.bytes().data() + sizeof prefix, block.data() + at, part);
        if (EVP_Digest(input.bytes().data(), input.bytes().size(), raw(hash.bytes()), nullptr, digest, nullptr) != 1) {
            return false;
        }
        std::memcpy(block.data() + at, hash.bytes().data(), part);
    }
    return true;
}

}  // namespace

Result<Secret> open_slot(const Header& header, const Slot& slot, std::vector<std::byte> material, std::string_view passphrase) {
    const EVP_MD* digest = digest_of(header.hash);
    if (digest == nullptr) {
        return Error{ErrorKind::NotSupported, fmt::format("the hash '{:.32}' is not supported", header.hash), ENOTSUP};
    }
    const Error failed{ErrorKind::Failed, "deriving a key failed", EIO};
    Secret slot_key(header.key_bytes), key(header.key_bytes), check(kDigestBytes);
    if (!derive(digest, std::as_bytes(std::span(passphrase)), slot.salt, slot.iterations, slot_key.bytes())) {
        return failed;
    }
    const auto cipher = STRATA_TRY(SectorCipher::create(header.cipher, header.mode, slot_key.bytes()));
    STRATA_TRY_VOID(cipher.decrypt(0, material));
    for (std::uint32_t stripe = 0; stripe < slot.stripes; ++stripe) {
        for (std::size_t i = 0; i < header.key_bytes; ++i) {
            key.bytes()[i] ^= material[std::size_t{stripe} * header.key_bytes + i];
        }
        if (stripe + 1 != slot.stripes && !diffuse(digest, key.bytes())) {
            return failed;
        }
    }
    OPENSSL_cleanse(material.data(), material.size());
    if (!derive(digest, key.bytes(), header.digest_salt, header.digest_iterations, check.bytes())) {
        return failed;
    }
    if (CRYPTO_memcmp(check.bytes().data(), header.digest.data(), kDigestBytes) != 0) {
        return Error{ErrorKind::PermissionDenied, "the passphrase is wrong", EACCES};
    }
    return key;
}

}  // namespace strata::block::luks
