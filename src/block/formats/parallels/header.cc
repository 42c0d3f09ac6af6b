// ParallelsHeader: field by field.
#include "block/formats/parallels/header.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::block::parallels {
namespace {

struct Wire {
    std::array<char, 16> magic{};
    Le32 version, heads, cylinders, tracks, entries;
    Le64 sectors;
    Le32 in_use, data_offset, flags;
    Le64 extension;
};
static_assert(sizeof(Wire) == kHeaderBytes);
constexpr std::string_view kOld = "WithoutFreeSpace", kNew = "WithouFreSpacExt";

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= kHeaderBytes && get<Le32>(bytes, 16) == 2 &&
           (std::memcmp(bytes.data(), kOld.data(), 16) == 0 ||
            std::memcmp(bytes.data(), kNew.data(), 16) == 0);
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || !is_image(bytes)) {
        return broken_image("Parallels", name, "this is no Parallels image of version 2");
    }
    const Wire& wire = *read;
    Header h;
    h.extended = std::string_view(wire.magic.data(), 16) == kNew;
    h.heads = wire.heads;
    h.cylinders = wire.cylinders;
    h.block = std::uint64_t{wire.tracks} * 512;
    h.entries = wire.entries;
    // The old kind has 32 bits; what lies in the upper half is not its business.
    const std::uint64_t sectors = h.extended ? wire.sectors.value() : wire.sectors & 0xFFFFFFFFU;
    if (h.block == 0 || wire.tracks > (0x7FFFFFFFU / 512)) {
        return broken_image("Parallels", name,
                            fmt::format("blocks of {} sectors cannot be", wire.tracks.value()));
    }
    if (sectors > (1ULL << 50) || h.entries > kMaxTableBytes / 4 ||
        h.entries < divide_up(sectors, wire.tracks)) {
        return broken_image(
            "Parallels", name,
            fmt::format("a table of {} blocks of {} bytes does not fit a disk of {} sectors",
                        h.entries, h.block, sectors));
    }
    h.size = sectors * 512;
    h.in_use = wire.in_use;
    h.flags = wire.flags;
    h.extension = wire.extension;
    h.data_offset = std::uint64_t{wire.data_offset} * 512;
    if (h.data_offset == 0) {
        h.data_offset = round_up(h.table_end(), h.extended ? h.block : 512);
    } else if (h.data_offset < h.table_end()) {
        return broken_image("Parallels", name,
                            fmt::format("its data at {} would lie in its table", h.data_offset));
    }
    return h;
}

std::vector<std::byte> serialise_header(const Header& h) {
    Wire wire{};
    const std::string_view magic = h.extended ? kNew : kOld;
    std::copy(magic.begin(), magic.end(), wire.magic.begin());
    wire.version = 2U;
    wire.heads = h.heads;
    wire.cylinders = h.cylinders;
    wire.tracks = static_cast<std::uint32_t>(h.block / 512);
    wire.entries = h.entries;
    wire.sectors = h.size / 512;
    wire.in_use = h.in_use;
    wire.data_offset = static_cast<std::uint32_t>(h.data_offset / 512);
    wire.flags = h.flags;
    wire.extension = h.extension;
    std::vector<std::byte> out(kHeaderBytes);
    put(out, 0, wire);
    return out;
}

}  // namespace strata::block::parallels
