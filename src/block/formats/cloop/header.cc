// CloopHeader: field by field.
#include "block/formats/cloop/header.h"

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::cloop {
namespace {

constexpr std::string_view kMagic =
    "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    // As the kernel module does: the version line is what counts.
    constexpr std::string_view kStart = "#!/bin/sh\n#V2.0 Format\n";
    static_assert(kMagic.starts_with(kStart));
    return bytes.size() >= kStart.size() &&
           std::memcmp(bytes.data(), kStart.data(), kStart.size()) == 0;
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    if (!is_image(bytes) || bytes.size() < kHeaderBytes) {
        return broken_image("cloop", name, "this is no cloop image of version 2");
    }
    const Header h{get<Be32>(bytes, 128), get<Be32>(bytes, 132)};
    if (h.block == 0 || h.block % 512 != 0 || h.block > kMaxBlock) {
        return broken_image("cloop", name, fmt::format("blocks of {} bytes cannot be", h.block));
    }
    if (h.table_bytes() > kMaxTableBytes) {
        return broken_image("cloop", name, fmt::format("{} blocks are too many", h.blocks));
    }
    return h;
}

Result<std::vector<std::uint64_t>> parse_offsets(std::span<const std::byte> bytes, const Header& h,
                                                 std::string_view name) {
    if (bytes.size() < h.table_bytes()) {
        return broken_image("cloop", name, "its offset table is cut off");
    }
    // What zlib needs at most for a block that it cannot shrink, and then some.
    const std::uint64_t longest = h.block + h.block / 1000 + 4096;
    std::vector<std::uint64_t> out(h.blocks + std::size_t{1});
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = get<Be64>(bytes, i * 8);
        if (out[i] < (i == 0 ? kHeaderBytes + h.table_bytes() : out[i - 1]) ||
            out[i] > (1ULL << 56) || (i != 0 && out[i] - out[i - 1] > longest)) {
            return broken_image("cloop", name, fmt::format("block {} at {} cannot be", i, out[i]));
        }
    }
    return out;
}

}  // namespace strata::block::cloop
