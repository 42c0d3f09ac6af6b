// VmdkSparseHeader: field by field.
#include "block/formats/vmdk/sparse_header.h"

#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::vmdk {
namespace {

constexpr std::uint32_t kHosted = 0x564D444B, kCowd = 0x44574F43;

struct Wire {
    Le32 magic, version, flags;
    Le64 capacity, grain, descriptor_offset, descriptor_sectors;
    Le32 table_entries;
    Le64 redundant_directory, directory, overhead;
    std::uint8_t unclean = 0;
    std::array<char, 4> newlines{};
    Le16 compression;
    std::array<std::byte, 433> padding{};
};
struct CowdWire {
    Le32 magic, version, flags, sectors, grain, directory, directory_entries, free;
};
struct MarkerWire {
    Le64 sectors;
    Le32 size, type;
};
static_assert(sizeof(Wire) == kHeaderBytes);
constexpr std::array<char, 4> kNewlines = {'\n', ' ', '\r', '\n'};

Result<> check(const SparseHeader& h, std::string_view name) {
    if (!std::has_single_bit(h.grain) || h.grain > (1U << 21) ||
        (h.compressed() && h.grain > kMaxGrain * 16)) {
        return broken_image("VMDK", name, fmt::format("grains of {} sectors cannot be", h.grain));
    }
    if (h.table_entries == 0 || h.table_entries > (h.cowd ? kCowdTableEntries : kMaxTableEntries)) {
        return broken_image("VMDK", name,
                            fmt::format("grain tables of {} entries cannot be", h.table_entries));
    }
    if (h.capacity == 0 || h.capacity > (1ULL << 52) || h.tables() > kMaxDirectoryEntries) {
        return broken_image(
            "VMDK", name,
            fmt::format("an extent of {} sectors in grains of {} cannot be", h.capacity, h.grain),
            "L1 size too big");
    }
    const bool at_end = h.directory == kDirectoryAtEnd;
    if (!at_end &&
        (h.directory == 0 || h.directory > (1ULL << 48) || h.redundant_directory > (1ULL << 48))) {
        return broken_image(
            "VMDK", name,
            fmt::format("its grain directory lies at sector {}, where none can be", h.directory));
    }
    if (h.overhead > (1ULL << 40)) {
        return broken_image("VMDK", name,
                            fmt::format("{} sectors before its first grain cannot be", h.overhead));
    }
    if (h.descriptor_offset > (1ULL << 48) || h.descriptor_sectors > (64U << 10)) {
        return broken_image("VMDK", name,
                            fmt::format("a descriptor of {} sectors at {} cannot be",
                                        h.descriptor_sectors, h.descriptor_offset));
    }
    return ok();
}

Result<SparseHeader> parse_cowd(std::span<const std::byte> bytes, std::string_view name) {
    const auto wire = ByteReader(bytes).read<CowdWire>();
    if (!wire.ok() || wire->version != 1) {
        return unsupported_image("VMDK", name, "a COWD extent of an unknown version");
    }
    SparseHeader h;
    h.cowd = true;
    h.flags = 0;
    h.capacity = wire->sectors;
    h.grain = wire->grain;
    h.table_entries = kCowdTableEntries;
    h.directory = wire->directory;
    STRATA_TRY_VOID(check(h, name));
    if (wire->directory_entries < h.tables()) {
        return broken_image("VMDK", name,
                            fmt::format("its grain directory of {} entries is too short",
                                        wire->directory_entries.value()));
    }
    return h;
}

}  // namespace

bool is_sparse(std::span<const std::byte> bytes) {
    return bytes.size() >= 4 && (get<Le32>(bytes, 0) == kHosted || get<Le32>(bytes, 0) == kCowd);
}

Result<SparseHeader> parse_sparse_header(std::span<const std::byte> bytes, std::string_view name) {
    if (bytes.size() >= 4 && get<Le32>(bytes, 0) == kCowd) {
        return parse_cowd(bytes, name);
    }
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || read->magic != kHosted) {
        return broken_image("VMDK", name, "a sparse extent without a header");
    }
    const Wire& wire = *read;
    if (wire.version < 1 || wire.version > 3) {
        return unsupported_image("VMDK", name,
                                 fmt::format("version {} is unknown", wire.version.value()));
    }
    SparseHeader h;
    h.version = wire.version;
    h.flags = wire.flags;
    h.capacity = wire.capacity;
    h.grain = wire.grain;
    h.descriptor_offset = wire.descriptor_offset;
    h.descriptor_sectors = wire.descriptor_sectors;
    h.table_entries = wire.table_entries;
    h.redundant_directory = wire.redundant_directory;
    h.directory = wire.directory;
    h.overhead = wire.overhead;
    h.unclean = wire.unclean != 0;
    h.compression = wire.compression;
    STRATA_TRY_VOID(check(h, name));
    if ((h.flags & kFlagNewline) != 0 && wire.newlines != kNewlines) {
        return broken_image("VMDK", name, "its line ends were converted in a transfer as text");
    }
    if (h.compressed() && h.compression != 1) {
        return unsupported_image("VMDK", name,
                                 fmt::format("compression {} is unknown", h.compression));
    }
    return h;
}

std::vector<std::byte> serialise_sparse_header(const SparseHeader& h) {
    Wire wire{};
    wire.magic = kHosted;
    wire.version = h.version;
    wire.flags = h.flags;
    wire.capacity = h.capacity;
    wire.grain = h.grain;
    wire.descriptor_offset = h.descriptor_offset;
    wire.descriptor_sectors = h.descriptor_sectors;
    wire.table_entries = h.table_entries;
    wire.redundant_directory = h.redundant_directory;
    wire.directory = h.directory;
    wire.overhead = h.overhead;
    wire.unclean = h.unclean ? 1 : 0;
    wire.newlines = kNewlines;
    wire.compression = h.compression;
    std::vector<std::byte> out(kHeaderBytes);
    put(out, 0, wire);
    return out;
}

std::vector<std::byte> serialise_marker(Marker type, std::uint64_t sectors) {
    std::vector<std::byte> out(512);
    put(out, 0, MarkerWire{sectors, 0U, static_cast<std::uint32_t>(type)});
    return out;
}

}  // namespace strata::block::vmdk
