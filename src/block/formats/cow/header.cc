// CowHeader: field by field.
#include "block/formats/cow/header.h"

#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::cow {
namespace {

constexpr std::uint32_t kMagic = 0x4F4F4F4D;  // "OOOM"

template <typename Int32, typename Int64>
struct Wire1 {
    Int32 magic, version;
    std::array<std::byte, 256> backing{};
    Int32 modified;
    Int64 size;
    Int32 sector;
};
struct Wire2 {
    Be32 magic, version;
    std::array<std::byte, 4096> backing{};
    Be32 modified;
    Be64 size;
    Be32 sector;
};
struct Wire3 {
    Be32 magic, version, modified;
    Be64 size;
    Be32 sector, alignment, format;
    std::array<std::byte, 4096> backing{};
};
static_assert(sizeof(Wire3) <= kMaxHeader && sizeof(Wire2) <= kMaxHeader);

/// The fields that all versions have; the bitmap follows a header of sizeof(Wire).
template <typename Wire>
Result<Header> take(std::span<const std::byte> bytes, std::string_view name) {
    const auto wire = ByteReader(bytes).read<Wire>();
    if (!wire.ok()) {
        return broken_image("COW", name, "its header is cut off");
    }
    Header h;
    h.version = wire->version;
    h.size = wire->size;
    h.sector = wire->sector;
    h.bitmap_offset = sizeof(Wire);
    h.backing = text_until_nul(wire->backing);
    return h;
}

Result<Header> parse_any(std::span<const std::byte> bytes, std::string_view name) {
    const std::uint32_t version =
        get<Be32>(bytes, 0) == kMagic ? get<Be32>(bytes, 4).value() : get<Le32>(bytes, 4).value();
    const bool big = get<Be32>(bytes, 0) == kMagic;
    if (version == 1) {
        return big ? take<Wire1<Be32, Be64>>(bytes, name) : take<Wire1<Le32, Le64>>(bytes, name);
    }
    if (version == 2 && big) {
        return take<Wire2>(bytes, name);
    }
    if (version == 3 && big) {
        return take<Wire3>(bytes, name);
    }
    return unsupported_image("COW", name, fmt::format("version {} is unknown", version));
}

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= 8 && ((get<Be32>(bytes, 0) == kMagic && get<Be32>(bytes, 4) >= 1 &&
                                  get<Be32>(bytes, 4) <= 3) ||
                                 (get<Le32>(bytes, 0) == kMagic && get<Le32>(bytes, 4) == 1));
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    if (!is_image(bytes)) {
        return broken_image("COW", name, "this is no User-Mode Linux image");
    }
    Header h = STRATA_TRY(parse_any(bytes, name));
    if (!std::has_single_bit(h.sector) || h.sector < 512 || h.sector > 65536) {
        return broken_image("COW", name, fmt::format("sectors of {} bytes cannot be", h.sector));
    }
    if (h.size == 0 || h.size % 512 != 0 ||
        divide_up(divide_up(h.size, h.sector), 8) > kMaxBitmapBytes) {
        return broken_image("COW", name, fmt::format("a disk of {} bytes cannot be", h.size));
    }
    if (h.version < 3) {
        // What the old writers left between bitmap and data; its last bits lie in the padding.
        h.bitmap_bytes = (h.size + h.sector - 1) / (8ULL * h.sector);
        h.data_offset = round_up(h.bitmap_offset + h.bitmap_bytes, h.sector);
        return h;
    }
    const std::uint32_t alignment = get<Be32>(bytes, 24), format = get<Be32>(bytes, 28);
    if (format != 0) {
        return unsupported_image("COW", name, fmt::format("format {} is unknown", format));
    }
    if (!std::has_single_bit(alignment) || alignment > (1U << 20)) {
        return broken_image("COW", name, fmt::format("data aligned to {} cannot be", alignment));
    }
    h.bitmap_bytes = divide_up(divide_up(h.size, h.sector), 8);
    h.data_offset = round_up(h.bitmap_offset + h.bitmap_bytes, alignment);
    return h;
}

}  // namespace strata::block::cow
