// Headers of LUKS volumes and qcow2's bitmap directory: the first byte says which, the rest is what
// an image has. The second version's checksums are made right, so that what lies behind them is
// reached.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <openssl/evp.h>

#include "block/formats/luks/header.h"
#include "block/formats/luks/header2.h"
#include "block/formats/qcow2/bitmap_directory.h"

namespace {

constexpr std::size_t kBinary = 4096, kLength = 16384, kHashName = 72, kChecksum = 448;

/// A sound binary part over `json`.
std::vector<std::byte> version2(std::span<const std::byte> json) {
    std::vector<std::byte> image(kLength);
    constexpr unsigned char kStart[] = {'L', 'U', 'K', 'S', 0xBA, 0xBE,         0, 2, 0,
                                        0,   0,   0,   0,   0,    kLength >> 8, 0};
    std::memcpy(image.data(), kStart, sizeof kStart);
    std::memcpy(image.data() + kHashName, "sha256", 6);
    std::copy_n(json.begin(), std::min(json.size(), kLength - kBinary), image.begin() + kBinary);
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    (void)EVP_Digest(image.data(), image.size(), sum, &length, EVP_sha256(), nullptr);
    std::memcpy(image.data() + kChecksum, sum, length);
    return image;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const auto rest = std::as_bytes(std::span(data, size).subspan(1));
    const std::vector<std::byte> bytes(rest.begin(), rest.end());
    if (data[0] % 3 == 0) {
        (void)strata::block::luks::parse_header(bytes, 1U << 24, "x");
    } else if (data[0] % 3 == 1) {
        (void)strata::block::luks::parse_header2(version2(bytes), 1U << 25, "x");
    } else {
        strata::block::qcow2::Header header;
        header.size = 1U << 30;
        (void)strata::block::qcow2::parse_bitmap_directory(bytes, data[0] / 3U, header, "x");
    }
    return 0;
}
