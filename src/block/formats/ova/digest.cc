// OvaDigest: a member read in pieces.
#include "block/formats/ova/digest.h"

#include <algorithm>
#include <array>
#include <memory>

#include <fmt/format.h>
#include <openssl/evp.h>

namespace strata::block::ova {
namespace {

using archive::Member;

constexpr std::uint64_t kDigestPart = 1U << 20;

std::string hex_of(std::span<const unsigned char> bytes) {
    std::string text;
    for (const unsigned char each : bytes) {
        text += fmt::format("{:02x}", each);
    }
    return text;
}

struct FreeDigest {
    void operator()(EVP_MD_CTX* each) const { EVP_MD_CTX_free(each); }
};

}  // namespace

Task<std::string> digest_of(Node& file, Member member, std::string algorithm) {
    const EVP_MD* kind = algorithm == "SHA1"     ? EVP_sha1()
                         : algorithm == "SHA256" ? EVP_sha256()
                         : algorithm == "SHA512" ? EVP_sha512()
                                                 : nullptr;
    const std::unique_ptr<EVP_MD_CTX, FreeDigest> context(EVP_MD_CTX_new());
    if (kind == nullptr || context == nullptr ||
        EVP_DigestInit_ex(context.get(), kind, nullptr) != 1) {
        co_return std::string();
    }
    std::vector<std::byte> part(kDigestPart);
    for (std::uint64_t done = 0; done < member.size; done += part.size()) {
        part.resize(std::min<std::uint64_t>(kDigestPart, member.size - done));
        STRATA_CO_TRY_VOID(co_await file.read(member.offset + done, Buffers(std::span(part))));
        (void)EVP_DigestUpdate(context.get(), part.data(), part.size());  // cannot fail for bytes
    }
    std::array<unsigned char, EVP_MAX_MD_SIZE> sum{};
    unsigned length = 0;
    (void)EVP_DigestFinal_ex(context.get(), sum.data(), &length);
    co_return hex_of(std::span(sum).first(length));
}

}  // namespace strata::block::ova
