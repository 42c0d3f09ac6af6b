// XvaSums: SHA-1 by OpenSSL, XXH64 by its own library.
#include "block/formats/xva/sums.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include "base/check.h"

namespace strata::block::xva {

std::string sum_of(SumKind kind, std::span<const std::byte> block) {
    if (kind == SumKind::Xxh64) {
        return fmt::format("{:016X}", XXH64(block.data(), block.size(), 0));
    }
    std::array<unsigned char, EVP_MAX_MD_SIZE> sum{};
    unsigned length = 0;
    STRATA_CHECK(
        EVP_Digest(block.data(), block.size(), sum.data(), &length, EVP_sha1(), nullptr) == 1,
        "OpenSSL has no SHA-1");
    std::string hex;
    for (unsigned i = 0; i < length; ++i) {
        hex += fmt::format("{:02x}", sum.at(i));
    }
    return hex;
}

}  // namespace strata::block::xva
