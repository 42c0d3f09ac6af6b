// Codecs of DMG chunks: the first byte says which, the next two how many sectors should come out,
// the rest is the stream.
#include <cstdint>
#include <span>
#include <vector>

#include "../input.h"
#include "block/formats/dmg/codecs.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata::block::dmg;  // NOLINT(google-build-using-namespace): a fuzz target
    if (size < 3) {
        return 0;
    }
    strata::fuzz::Input head(data, 3);
    constexpr decltype(&unpack_lzfse) kCodecs[] = {&unpack_lzfse, &unpack_adc, &unpack_bzip2,
                                                   &unpack_lzma};
    const auto unpack = kCodecs[head.take(1) % std::size(kCodecs)];
    std::vector<std::byte> out(head.take(2) % 256 * 512);
    // Copied: the sanitizer then sees each read behind the end.
    const auto bytes = std::as_bytes(std::span(data, size).subspan(3));
    const std::vector<std::byte> from(bytes.begin(), bytes.end());
    (void)unpack(from, out);
    return 0;
}
