// Bitmap directory: entry by entry.
#include "block/formats/qcow2/bitmap_directory.h"

#include <cerrno>
#include <cstring>
#include <set>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint32_t kKnownFlags = kBitmapInUse | kBitmapAuto | kBitmapExtraCompatible;
constexpr std::uint8_t kDirtyTracking = 1;
constexpr std::uint64_t kMaxDirectory = 1024 * kMaxBitmaps;

struct WireExtension {
    Be32 bitmaps, reserved;
    Be64 directory_bytes, directory_offset;
};
struct WireEntry {
    Be64 table_offset;
    Be32 table_entries, flags;
    std::uint8_t type = 0, granularity_bits = 0;
    Be16 name_size;
    Be32 extra_size;
};
static_assert(sizeof(WireExtension) == 24 && sizeof(WireEntry) == 24);

Error bad(std::string_view image, std::string_view what) {
    return {ErrorKind::Failed,
            fmt::format("qcow2 image '{}' is corrupt: its bitmap directory {}", image, what),
            EINVAL};
}

Result<> check_entry(const StoredBitmap& b, std::uint8_t type, const Header& h,
                     std::string_view image) {
    const std::uint64_t room = std::uint64_t{b.table_entries} << h.cluster_bits;
    if (type != kDirtyTracking || (b.flags & ~kKnownFlags) != 0 ||
        b.granularity_bits < kMinGranularityBits || b.granularity_bits > kMaxGranularityBits) {
        return bad(
            image,
            fmt::format(
                "has a bitmap of type {}, flags {:#x}, granularity bits {}, which is unknown here",
                type, b.flags, b.granularity_bits));
    }
    if (b.name.empty() || b.name.size() > kMaxBitmapName ||
        b.name.find('\0') != std::string::npos) {
        return bad(image, fmt::format("has a name of {} bytes", b.name.size()));
    }
    if (b.table_entries == 0 || b.table_offset == 0 || b.table_offset % h.cluster() != 0 ||
        b.table_offset >= kMaxHostOffset || room > kMaxBitmapBytes) {
        return bad(image, fmt::format("names a table of {} entries at {:#x}, where none can be",
                                      b.table_entries, b.table_offset));
    }
    if ((b.flags & kBitmapInUse) == 0 && room < bitmap_bytes(h.size, b.granularity_bits)) {
        return bad(image,
                   fmt::format("has a bitmap, '{}', that is too small for the disk", b.name));
    }
    return ok();
}

void append(std::vector<std::byte>& out, const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    out.insert(out.end(), from, from + size);
}

}  // namespace

std::uint64_t bitmap_bytes(std::uint64_t size, unsigned granularity_bits) {
    const std::uint64_t bits =
        (size >> granularity_bits) + ((size & ((1ULL << granularity_bits) - 1)) != 0 ? 1 : 0);
    return (bits + 7) / 8;
}

Result<BitmapExtension> parse_bitmap_extension(std::span<const std::byte> content,
                                               std::string_view image) {
    WireExtension wire{};
    if (content.size() != sizeof wire) {
        return bad(image, fmt::format("is named by an extension of {} bytes", content.size()));
    }
    std::memcpy(&wire, content.data(), sizeof wire);
    if (wire.bitmaps == 0 || wire.bitmaps > kMaxBitmaps || wire.directory_bytes > kMaxDirectory ||
        wire.directory_offset >= kMaxHostOffset) {
        return bad(image, fmt::format("of {} bitmaps has {} bytes at {:#x}", wire.bitmaps.value(),
                                      wire.directory_bytes.value(), wire.directory_offset.value()));
    }
    return BitmapExtension{wire.bitmaps, wire.directory_bytes, wire.directory_offset};
}

std::vector<std::byte> serialise_bitmap_extension(const BitmapExtension& extension) {
    const WireExtension wire{extension.bitmaps, 0U, extension.directory_bytes,
                             extension.directory_offset};
    std::vector<std::byte> out;
    append(out, &wire, sizeof wire);
    return out;
}

Result<std::vector<StoredBitmap>> parse_bitmap_directory(std::span<const std::byte> bytes,
                                                         std::uint32_t count, const Header& header,
                                                         std::string_view image) {
    std::vector<StoredBitmap> all;
    std::set<std::string> names;
    std::size_t at = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        ByteReader reader(bytes.subspan(at));
        const auto wire = reader.read<WireEntry>();
        const auto extra = wire.ok() ? reader.take(wire->extra_size)
                                     : Result<std::span<const std::byte>>(wire.error());
        const auto name = extra.ok() ? reader.take(wire->name_size) : extra;
        if (!name.ok()) {
            return bad(image, "ends within an entry");
        }
        StoredBitmap b;
        b.table_offset = wire->table_offset;
        b.table_entries = wire->table_entries;
        b.flags = wire->flags;
        b.granularity_bits = wire->granularity_bits;
        b.extra.assign(extra->begin(), extra->end());
        b.flags_place = at + 12;
        // SAFETY: bytes as characters.
        b.name.assign(reinterpret_cast<const char*>(name->data()), name->size());
        STRATA_TRY_VOID(check_entry(b, wire->type, header, image));
        if (!names.insert(b.name).second) {
            return bad(image, fmt::format("has two bitmaps called '{}'", b.name));
        }
        at = std::min(bytes.size(),
                      at + (sizeof(WireEntry) + extra->size() + name->size() + 7) / 8 * 8);
        all.push_back(std::move(b));
    }
    return all;
}

std::vector<std::byte> serialise_bitmap_directory(const std::vector<StoredBitmap>& bitmaps) {
    std::vector<std::byte> out;
    for (const StoredBitmap& b : bitmaps) {
        WireEntry wire{};
        wire.table_offset = b.table_offset;
        wire.table_entries = b.table_entries;
        wire.flags = b.flags;
        wire.type = kDirtyTracking;
        wire.granularity_bits = static_cast<std::uint8_t>(b.granularity_bits);
        wire.name_size = static_cast<std::uint16_t>(b.name.size());
        wire.extra_size = static_cast<std::uint32_t>(b.extra.size());
        append(out, &wire, sizeof wire);
        append(out, b.extra.data(), b.extra.size());
        append(out, b.name.data(), b.name.size());
        out.resize((out.size() + 7) / 8 * 8);
    }
    return out;
}

}  // namespace strata::block::qcow2
