// BochsHeader: field by field.
#include "block/formats/bochs/header.h"

#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::bochs {
namespace {

struct Wire {
    std::array<char, 32> magic{};
    std::array<char, 16> type{}, subtype{};
    Le32 version, header, catalog, bitmap, extent;
    std::array<std::byte, 12>
        rest{};  // version 1: the size; version 2: a reserved word, then the size
};
static_assert(sizeof(Wire) == 96);
constexpr std::string_view kMagic = "Bochs Virtual HD Image", kType = "Redolog",
                           kSubtype = "Growing";

bool says(std::span<const std::byte> bytes, std::size_t at, std::string_view what) {
    return text_until_nul(bytes.subspan(at, what.size() + 1)) == what;
}

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= kHeaderBytes && says(bytes, 0, kMagic) && says(bytes, 32, kType) &&
           says(bytes, 48, kSubtype);
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || !is_image(bytes)) {
        return broken_image("Bochs", name, "this is no growing Bochs image");
    }
    if (read->version != 0x10000 && read->version != 0x20000) {
        return unsupported_image("Bochs", name,
                                 fmt::format("version {:#x} is unknown", read->version.value()));
    }
    Header h;
    h.header = read->header;
    h.catalog = read->catalog;
    h.bitmap = read->bitmap;
    h.extent = read->extent;
    h.size = get<Le64>(read->rest, read->version == 0x10000 ? 0 : 4) / 512 * 512;
    if (h.header < kHeaderBytes || h.header > (1U << 20) || h.catalog > 0x100000) {
        return broken_image(
            "Bochs", name,
            fmt::format("a catalog of {} entries behind {} bytes cannot be", h.catalog, h.header));
    }
    if (!std::has_single_bit(h.extent) || h.extent < 512 || h.extent > 0x800000) {
        return broken_image("Bochs", name, fmt::format("extents of {} bytes cannot be", h.extent));
    }
    if (h.bitmap == 0 || h.bitmap > (1U << 20) || std::uint64_t{h.bitmap} * 8 < h.extent / 512) {
        return broken_image("Bochs", name, fmt::format("bitmaps of {} bytes cannot be", h.bitmap));
    }
    if (h.size > (1ULL << 50) || h.catalog < divide_up(h.size, h.extent)) {
        return broken_image(
            "Bochs", name,
            fmt::format("a catalog of {} entries is too short for {} bytes", h.catalog, h.size));
    }
    return h;
}

}  // namespace strata::block::bochs
