// SectorCipher: OpenSSL's EVP, a context a call.
#include "block/formats/luks/sector_cipher.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <openssl/crypto.h>

#include "base/endian.h"

namespace strata::block::luks {
namespace {

constexpr std::size_t kSector = 512;

struct Free {
    void operator()(EVP_CIPHER_CTX* each) const { EVP_CIPHER_CTX_free(each); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, Free>;

// SAFETY: the library's interface is of unsigned char.
unsigned char* raw(std::span<std::byte> bytes) {
    return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* raw(std::span<const std::byte> bytes) {
    return reinterpret_cast<const unsigned char*>(bytes.data());
}

struct Known {
    std::string_view mode;
    std::size_t key_bytes;
    const EVP_CIPHER* (*cipher)();
};
constexpr std::array<Known, 5> kKnown = {{
    {"xts", 32, &EVP_aes_128_xts},
    {"xts", 64, &EVP_aes_256_xts},
    {"cbc", 16, &EVP_aes_128_cbc},
    {"cbc", 24, &EVP_aes_192_cbc},
    {"cbc", 32, &EVP_aes_256_cbc},
}};

}  // namespace

Secret::~Secret() {
    OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

Result<SectorCipher> SectorCipher::create(std::string_view cipher, std::string_view mode,
                                          std::span<const std::byte> key,
                                          std::size_t sector_bytes) {
    const std::size_t dash = std::min(mode.find('-'), mode.size());
    const std::string_view chaining = mode.substr(0, dash),
                           iv = mode.substr(std::min(dash + 1, mode.size()));
    const auto known = std::find_if(kKnown.begin(), kKnown.end(), [&](const Known& each) {
        return each.mode == chaining && each.key_bytes == key.size();
    });
    const bool plain = iv == "plain", plain64 = iv == "plain64",
               essiv = iv == "essiv:sha256" && chaining == "cbc";
    if (cipher != "aes" || known == kKnown.end() || !(plain || plain64 || essiv)) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("the cipher {:.32}-{:.32} with a key of {} bits is not supported",
                                 cipher, mode, key.size() * 8),
                     ENOTSUP};
    }
    Secret own(key.size()), hashed(essiv ? 32 : 0);
    std::copy(key.begin(), key.end(), own.bytes().begin());
    if (essiv && EVP_Digest(key.data(), key.size(), raw(hashed.bytes()), nullptr, EVP_sha256(),
                            nullptr) != 1) {
        return Error{ErrorKind::Failed, "hashing a key failed", EIO};
    }
    return SectorCipher(known->cipher(),
                        essiv   ? Iv::Essiv
                        : plain ? Iv::Plain
                                : Iv::Plain64,
                        std::move(own), std::move(hashed), sector_bytes);
}

Result<> SectorCipher::run(std::uint64_t sector, std::span<std::byte> bytes,
                           bool encrypting) const {
    const Error failed{ErrorKind::Failed, "the cipher failed", EIO};
    const Context context(EVP_CIPHER_CTX_new());
    const Context iv_context(iv_ == Iv::Essiv ? EVP_CIPHER_CTX_new() : nullptr);
    if (context == nullptr || EVP_CipherInit_ex(context.get(), cipher_, nullptr, raw(key_.bytes()),
                                                nullptr, encrypting ? 1 : 0) != 1) {
        return failed;
    }
    EVP_CIPHER_CTX_set_padding(context.get(), 0);
    if (iv_ == Iv::Essiv) {
        if (iv_context == nullptr ||
            EVP_EncryptInit_ex(iv_context.get(), EVP_aes_256_ecb(), nullptr, raw(essiv_.bytes()),
                               nullptr) != 1) {
            return failed;
        }
        EVP_CIPHER_CTX_set_padding(iv_context.get(), 0);
    }
    for (; bytes.size() >= sector_bytes_;
         bytes = bytes.subspan(sector_bytes_), sector += sector_bytes_ / kSector) {
        std::array<std::byte, 16> iv{};
        const Le64 number = iv_ == Iv::Plain ? sector & 0xFFFFFFFFU : sector;
        std::memcpy(iv.data(), &number, sizeof number);
        int made = 0;
        const std::span<const std::byte> iv_bytes(iv);
        if (iv_ == Iv::Essiv &&
            EVP_EncryptUpdate(iv_context.get(), raw(std::span<std::byte>(iv)), &made, raw(iv_bytes),
                              static_cast<int>(iv.size())) != 1) {
            return failed;
        }
        if (EVP_CipherInit_ex(context.get(), nullptr, nullptr, nullptr, raw(iv_bytes), -1) != 1 ||
            EVP_CipherUpdate(context.get(), raw(bytes), &made, raw(bytes),
                             static_cast<int>(sector_bytes_)) != 1) {
            return failed;
        }
    }
    return ok();
}

Result<SectorCipher> passphrase_cipher(std::string_view passphrase) {
    constexpr std::size_t kKeyBytes = 16;
    Secret key(kKeyBytes);
    std::ranges::transform(passphrase.substr(0, kKeyBytes), key.bytes().begin(),
                           [](char c) { return static_cast<std::byte>(c); });
    return SectorCipher::create("aes", "cbc-plain64", key.bytes());
}

}  // namespace strata::block::luks
