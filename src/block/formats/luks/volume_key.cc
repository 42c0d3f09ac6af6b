// The volume key of a LUKS 1 volume: PBKDF2, the slot's cipher, the merge of the stripes.
#include "block/formats/luks/volume_key.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/endian.h"

namespace strata::block::luks {
namespace {

// SAFETY: the library's interface is of unsigned char.
unsigned char* raw(std::span<std::byte> bytes) {
    return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* raw(std::span<const std::byte> bytes) {
    return reinterpret_cast<const unsigned char*>(bytes.data());
}

constexpr std::uint32_t kStripes = 4000, kLeastIterations = 1000;

const EVP_MD* digest_of(std::string_view name) {
    return name == "sha1"     ? EVP_sha1()
           : name == "sha224" ? EVP_sha224()
           : name == "sha256" ? EVP_sha256()
           : name == "sha384" ? EVP_sha384()
           : name == "sha512" ? EVP_sha512()
                              : nullptr;
}

Error unknown_hash(std::string_view name) {
    return {ErrorKind::NotSupported, fmt::format("the hash '{:.32}' is not supported", name),
            ENOTSUP};
}

bool derive(const EVP_MD* digest, std::span<const std::byte> secret,
            std::span<const std::byte> salt, std::uint32_t iterations, std::span<std::byte> out) {
    // SAFETY: bytes as characters.
    return PKCS5_PBKDF2_HMAC(reinterpret_cast<const char*>(secret.data()),
                             static_cast<int>(secret.size()), raw(salt),
                             static_cast<int>(salt.size()), static_cast<int>(iterations), digest,
                             static_cast<int>(out.size()), raw(out)) == 1;
}

/// Spreads every bit of `block` over all of it: each digest's worth becomes the hash of its number
/// and itself.
bool diffuse(const EVP_MD* digest, std::span<std::byte> block) {
    const auto length = static_cast<std::size_t>(EVP_MD_get_size(digest));
    std::uint32_t number = 0;
    for (std::size_t at = 0; at < block.size(); at += length, ++number) {
        const std::size_t part = std::min(length, block.size() - at);
        const Be32 prefix(number);
        Secret input(sizeof prefix + part), hash(EVP_MAX_MD_SIZE);
        std::memcpy(input.bytes().data(), &prefix, sizeof prefix);
        std::memcpy(input.bytes().data() + sizeof prefix, block.data() + at, part);
        if (EVP_Digest(input.bytes().data(), input.bytes().size(), raw(hash.bytes()), nullptr,
                       digest, nullptr) != 1) {
            return false;
        }
        std::memcpy(block.data() + at, hash.bytes().data(), part);
    }
    return true;
}

}  // namespace

std::uint64_t thread_nanoseconds() {
    timespec now{};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);  // cannot fail for this clock
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

Result<Secret> open_slot(const Header& header, const Slot& slot, std::vector<std::byte> material,
                         std::string_view passphrase) {
    const EVP_MD* digest = digest_of(header.hash);
    if (digest == nullptr) {
        return unknown_hash(header.hash);
    }
    const Error failed{ErrorKind::Failed, "deriving a key failed", EIO};
    Secret slot_key(header.key_bytes), check(kDigestBytes);
    if (!derive(digest, std::as_bytes(std::span(passphrase)), slot.salt, slot.iterations,
                slot_key.bytes())) {
        return failed;
    }
    const auto cipher =
        STRATA_TRY(SectorCipher::create(header.cipher, header.mode, slot_key.bytes()));
    STRATA_TRY_VOID(cipher.decrypt(0, material));
    Secret key = STRATA_TRY(merge_stripes(header.hash, header.key_bytes, slot.stripes, material));
    OPENSSL_cleanse(material.data(), material.size());
    if (!derive(digest, key.bytes(), header.digest_salt, header.digest_iterations, check.bytes())) {
        return failed;
    }
    if (CRYPTO_memcmp(check.bytes().data(), header.digest.data(), kDigestBytes) != 0) {
        return Error{ErrorKind::PermissionDenied, "the passphrase is wrong", EACCES};
    }
    return key;
}

Result<> pbkdf2(std::string_view hash, std::span<const std::byte> secret,
                std::span<const std::byte> salt, std::uint32_t iterations,
                std::span<std::byte> out) {
    const EVP_MD* digest = digest_of(hash);
    if (digest == nullptr) {
        return unknown_hash(hash);
    }
    if (!derive(digest, secret, salt, iterations, out)) {
        return Error{ErrorKind::Failed, "deriving a key failed", EIO};
    }
    return ok();
}

Result<Secret> merge_stripes(std::string_view hash, std::uint32_t key_bytes, std::uint32_t stripes,
                             std::span<const std::byte> material) {
    const EVP_MD* digest = digest_of(hash);
    if (digest == nullptr) {
        return unknown_hash(hash);
    }
    Secret key(key_bytes);
    for (std::uint32_t stripe = 0; stripe < stripes; ++stripe) {
        for (std::size_t i = 0; i < key_bytes; ++i) {
            key.bytes()[i] ^= material[std::size_t{stripe} * key_bytes + i];
        }
        if (stripe + 1 != stripes && !diffuse(digest, key.bytes())) {
            return Error{ErrorKind::Failed, "deriving a key failed", EIO};
        }
    }
    return key;
}

Result<> fill_random(std::span<std::byte> bytes) {
    if (RAND_bytes(raw(bytes), static_cast<int>(bytes.size())) != 1) {
        return Error{ErrorKind::Failed, "no random numbers for a key", EIO};
    }
    return ok();
}

// Time of the processor, not of the clock: on a busy machine keys would be weaker otherwise.
Result<std::uint32_t> pbkdf2_iterations(std::string_view hash, std::uint32_t key_bytes,
                                        std::uint64_t milliseconds) {
    constexpr std::uint64_t kLongEnough = 50'000'000;
    const EVP_MD* digest = digest_of(hash);
    if (digest == nullptr) {
        return unknown_hash(hash);
    }
    const std::array<std::byte, kSaltBytes> salt{};
    Secret out(key_bytes);
    std::uint64_t count = 4096, taken = 0;
    for (;; count *= 2) {
        const std::uint64_t start = thread_nanoseconds();
        if (!derive(digest, salt, salt, static_cast<std::uint32_t>(count), out.bytes())) {
            return Error{ErrorKind::Failed, "deriving a key failed", EIO};
        }
        taken = std::max<std::uint64_t>(1, thread_nanoseconds() - start);
        if (taken >= kLongEnough || count >= kMaxIterations / 2) {
            break;
        }
    }
    const double wanted = static_cast<double>(count) * static_cast<double>(milliseconds) * 1e6 /
                          static_cast<double>(taken);
    return static_cast<std::uint32_t>(
        std::clamp(wanted, double{kLeastIterations}, double{kMaxIterations}));
}

Result<std::vector<std::byte>> split_key(std::string_view hash, const Secret& key,
                                         std::uint32_t stripes) {
    const EVP_MD* digest = digest_of(hash);
    if (digest == nullptr) {
        return unknown_hash(hash);
    }
    const std::size_t bytes = key.bytes().size();
    std::vector<std::byte> material((stripes * bytes + 511) / 512 * 512);
    Secret sum(bytes);
    STRATA_TRY_VOID(fill_random(std::span(material).first((stripes - 1) * bytes)));
    for (std::uint32_t stripe = 0; stripe + 1 < stripes; ++stripe) {
        for (std::size_t i = 0; i < bytes; ++i) {
            sum.bytes()[i] ^= material[stripe * bytes + i];
        }
        if (!diffuse(digest, sum.bytes())) {
            return Error{ErrorKind::Failed, "deriving a key failed", EIO};
        }
    }
    for (std::size_t i = 0; i < bytes; ++i) {
        material[(stripes - 1) * bytes + i] = sum.bytes()[i] ^ key.bytes()[i];
    }
    return material;
}

Result<std::vector<std::byte>> fill_slot(const Header& header, Slot& slot, const Secret& key,
                                         std::string_view passphrase, std::uint64_t milliseconds) {
    slot.iterations = STRATA_TRY(pbkdf2_iterations(header.hash, header.key_bytes, milliseconds));
    slot.stripes = kStripes;
    STRATA_TRY_VOID(fill_random(slot.salt));
    std::vector<std::byte> material = STRATA_TRY(split_key(header.hash, key, kStripes));
    Secret slot_key(header.key_bytes);
    STRATA_TRY_VOID(pbkdf2(header.hash, std::as_bytes(std::span(passphrase)), slot.salt,
                           slot.iterations, slot_key.bytes()));
    const auto cipher =
        STRATA_TRY(SectorCipher::create(header.cipher, header.mode, slot_key.bytes()));
    STRATA_TRY_VOID(cipher.encrypt(0, material));
    slot.active = true;
    return material;
}

Result<> seal(Header& header, const Secret& key, std::uint64_t milliseconds) {
    header.digest_iterations =
        STRATA_TRY(pbkdf2_iterations(header.hash, header.key_bytes, milliseconds));
    STRATA_TRY_VOID(fill_random(header.digest_salt));
    if (!derive(digest_of(header.hash), key.bytes(), header.digest_salt, header.digest_iterations,
                header.digest)) {
        return Error{ErrorKind::Failed, "deriving a key failed", EIO};
    }
    return ok();
}

}  // namespace strata::block::luks
