// Secrets: reading and decoding.
#include "block/secrets.h"

#include <array>
#include <cstdint>
#include <memory>

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace strata::block {
namespace {

constexpr std::size_t kMaxFile = 16U << 20, kKeyBytes = 32, kIvBytes = 16;

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text)};
}

Result<std::string> read_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) {
        return Error::from_errno(fmt::format("Unable to read {}", path));
    }
    std::string content;
    std::array<char, 4096> part{};
    for (;;) {
        const ssize_t count = ::read(fd.get(), part.data(), part.size());
        if (count < 0) {
            return Error::from_errno(fmt::format("Unable to read {}", path));
        }
        if (count == 0) {
            return content;
        }
        content.append(part.data(), static_cast<std::size_t>(count));
        if (content.size() > kMaxFile) {
            return wrong(fmt::format("{} is too large for a secret", path));
        }
    }
}

Result<std::string> decode_base64(const std::string& text) {
    std::string bytes;
    std::uint32_t bits = 0;
    unsigned count = 0, padding = 0;
    for (const char c : text) {
        constexpr std::string_view kDigits =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        if (c == '\n' || c == '\r' || c == ' ') {
            continue;
        }
        const std::size_t digit = kDigits.find(c);
        if (c == '=' && ++padding <= 2) {
            continue;
        }
        if (digit == std::string_view::npos || padding != 0) {
            return wrong("Base64 data is not valid base64");
        }
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        if (++count % 4 != 1) {
            const unsigned left = (4 - count % 4) % 4 * 2;  // bits of the next byte
            bytes += static_cast<char>(bits >> left & 0xFF);
        }
    }
    if (count % 4 == 1 || (count + padding) % 4 != 0) {
        return wrong("Base64 data is not valid base64");
    }
    return bytes;
}

const unsigned char* raw(const std::string& text) {
    // SAFETY: the library's interface is of unsigned char.
    return reinterpret_cast<const unsigned char*>(text.data());
}

Result<std::string> decrypt(const std::string& text, const std::string& key,
                            const std::string& iv) {
    if (key.size() != kKeyBytes || iv.size() != kIvBytes) {
        return wrong(fmt::format("Key should be {} bytes in length and IV {}, not {} and {}",
                                 kKeyBytes, kIvBytes, key.size(), iv.size()));
    }
    const std::unique_ptr<EVP_CIPHER_CTX, void (*)(EVP_CIPHER_CTX*)> context(EVP_CIPHER_CTX_new(),
                                                                             &EVP_CIPHER_CTX_free);
    std::string plain(text.size() + kIvBytes, '\0');
    // SAFETY: as raw().
    auto* out = reinterpret_cast<unsigned char*>(plain.data());
    int first = 0, last = 0;
    if (context == nullptr ||
        EVP_DecryptInit_ex(context.get(), EVP_aes_256_cbc(), nullptr, raw(key), raw(iv)) != 1 ||
        EVP_DecryptUpdate(context.get(), out, &first, raw(text), static_cast<int>(text.size())) !=
            1 ||
        EVP_DecryptFinal_ex(context.get(), out + first, &last) != 1) {
        return wrong(
            "Incorrect number of padding bytes found on decrypted data: is the key right?");
    }
    plain.resize(static_cast<std::size_t>(first) + static_cast<std::size_t>(last));
    return plain;
}

}  // namespace

bool is_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        const auto first = static_cast<unsigned char>(text[i++]);
        const unsigned more = first < 0x80                    ? 0
                              : first >= 0xC2 && first < 0xE0 ? 1
                              : first >= 0xE0 && first < 0xF0 ? 2
                              : first >= 0xF0 && first < 0xF5 ? 3
                                                              : 4;
        if (more == 4 || text.size() - i < more) {
            return false;
        }
        std::uint32_t value = more == 0 ? first : first & (0x3FU >> more);
        for (unsigned k = 0; k < more; ++k) {
            const auto next = static_cast<unsigned char>(text[i++]);
            if (next >> 6 != 2) {
                return false;
            }
            value = value << 6 | (next & 0x3FU);
        }
        constexpr std::array<std::uint32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
        if (value < kLeast.at(more) || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
            return false;
        }
    }
    return true;
}

Result<std::string> load_secret(const SecretSource& source) {
    if (source.data.has_value() == source.file.has_value()) {
        return wrong(source.data ? "'file' and 'data' are mutually exclusive"
                                 : "Must provide 'file' or 'data'");
    }
    std::string secret = source.data ? *source.data : STRATA_TRY(read_file(*source.file));
    if (source.base64) {
        secret = STRATA_TRY(decode_base64(secret));
    }
    if (source.key) {
        if (!source.iv) {
            return wrong("IV is required to decrypt secret");
        }
        const std::string iv = STRATA_TRY(decode_base64(*source.iv));
        secret = STRATA_TRY(decrypt(secret, *source.key, iv));
    }
    return secret;
}

}  // namespace strata::block
