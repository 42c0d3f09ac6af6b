// VhdxHeader: field by field.
#include "block/formats/vhdx/header.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::block::vhdx {
namespace {

constexpr std::string_view kIdentifier = "vhdxfile";
constexpr std::uint32_t kHead = 0x64616568, kRegi = 0x69676572;
constexpr std::string_view kMetadata = "metadata";
constexpr std::uint32_t kMaxRegions = 2047, kMaxItems = 2047;

struct WireHeader {
    Le32 signature, checksum;
    Le64 sequence;
    RawUuid file_write{}, data_write{}, log{};
    Le16 log_version, version;
    Le32 log_length;
    Le64 log_offset;
};
struct WireRegionTable {
    Le32 signature, checksum, count, reserved;
};
struct WireRegion {
    RawUuid id{};
    Le64 offset;
    Le32 length, required;
};
struct WireItem {
    RawUuid id{};
    Le32 offset, length, flags, reserved;
};
struct WireLocatorEntry {
    Le32 key, value;
    Le16 key_length, value_length;
};
static_assert(sizeof(WireHeader) == 80 && sizeof(WireRegion) == 32 && sizeof(WireItem) == 32 &&
              sizeof(WireLocatorEntry) == 12);

consteval std::byte hex_digit(char c) {
    return static_cast<std::byte>(c <= '9' ? c - '0' : c - 'A' + 10);
}
/// A GUID as it lies in the file, from its usual text.
consteval RawUuid guid(std::string_view text) {
    constexpr std::array<std::size_t, 16> kPlaces = {6,  4,  2,  0,  11, 9,  16, 14,
                                                     19, 21, 24, 26, 28, 30, 32, 34};
    RawUuid out{};
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = hex_digit(text[kPlaces[i]]) << 4 | hex_digit(text[kPlaces[i] + 1]);
    }
    return out;
}
constexpr RawUuid kBatRegion = guid("2DC27766-F623-4200-9D64-115E9BFD4A08");
constexpr RawUuid kMetadataRegion = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E");
constexpr RawUuid kFileParameters = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
constexpr RawUuid kDiskSize = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
constexpr RawUuid kDiskId = guid("BECA12AB-B2E6-4523-93EF-C309E000C746");
constexpr RawUuid kLogicalSector = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
constexpr RawUuid kPhysicalSector = guid("CDA348C7-445D-4471-9CC9-E9885251C556");
constexpr RawUuid kParentLocator = guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
constexpr RawUuid kVhdxParent = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913");
constexpr std::uint32_t kUserItem = 1, kVirtualDiskItem = 2, kRequiredItem = 4;

/// CRC-32C of a structure whose checksum field, at 4, counts as zeros.
std::uint32_t checksum_of(std::span<const std::byte> bytes) {
    constexpr std::array<std::byte, 4> kZeros{};
    return crc32c(bytes.subspan(8), crc32c(kZeros, crc32c(bytes.first(4))));
}

Result<> take_parent(std::span<const std::byte> item, Parameters& p, std::string_view name) {
    ByteReader reader(item);
    const auto type = reader.read<RawUuid>();
    const auto reserved = reader.read<Le16>();
    const auto count = reader.read<Le16>();
    if (!type.ok() || !reserved.ok() || !count.ok() || *type != kVhdxParent) {
        return broken_image("VHDX", name, "its parent locator is of an unknown kind");
    }
    for (unsigned i = 0; i < *count; ++i) {
        const auto entry = reader.read<WireLocatorEntry>();
        if (!entry.ok() || !lies_within(entry->key, entry->key_length, item.size()) ||
            !lies_within(entry->value, entry->value_length, item.size())) {
            return broken_image("VHDX", name, "its parent locator is cut off");
        }
        if (p.parent.size() < 64) {
            p.parent.emplace_back(
                utf8_of_utf16(item.subspan(entry->key, entry->key_length), false),
                utf8_of_utf16(item.subspan(entry->value, entry->value_length), false));
        }
    }
    return ok();
}

Result<> take_item(const WireItem& entry, std::span<const std::byte> item, Parameters& p,
                   std::string_view name) {
    ByteReader reader(item);
    if (entry.id == kFileParameters) {
        p.block = STRATA_TRY(reader.read<Le32>());
        const std::uint32_t flags = STRATA_TRY(reader.read<Le32>());
        p.leave_allocated = (flags & 1) != 0;
        p.has_parent = (flags & 2) != 0;
    } else if (entry.id == kDiskSize) {
        p.size = STRATA_TRY(reader.read<Le64>());
    } else if (entry.id == kDiskId) {
        p.disk_id = STRATA_TRY(reader.read<RawUuid>());
    } else if (entry.id == kLogicalSector) {
        p.logical_sector = STRATA_TRY(reader.read<Le32>());
    } else if (entry.id == kPhysicalSector) {
        p.physical_sector = STRATA_TRY(reader.read<Le32>());
    } else if (entry.id == kParentLocator) {
        return take_parent(item, p, name);
    } else if ((entry.flags & kRequiredItem) != 0) {
        return unsupported_image("VHDX", name,
                                 fmt::format("it needs the metadata {}, which is unknown here",
                                             format_uuid(entry.id, true)));
    }
    return ok();
}

Result<> check_parameters(const Parameters& p, std::string_view name) {
    if (!std::has_single_bit(p.block) || p.block < kMiB || p.block > 256 * kMiB) {
        return broken_image("VHDX", name, fmt::format("blocks of {} bytes cannot be", p.block));
    }
    if (p.logical_sector != 512 && p.logical_sector != 4096) {
        return broken_image("VHDX", name,
                            fmt::format("sectors of {} bytes cannot be", p.logical_sector));
    }
    if (p.size == 0 || p.size > kMaxSize || p.size % p.logical_sector != 0) {
        return broken_image("VHDX", name, fmt::format("a disk of {} bytes cannot be", p.size));
    }
    return ok();
}

}  // namespace

std::uint64_t Parameters::bat_entries() const {
    if (blocks() == 0) {
        return 0;
    }
    return has_parent ? divide_up(blocks(), chunk_ratio()) * (chunk_ratio() + 1)
                      : payload_entry(blocks() - 1) + 1;
}

std::string_view Parameters::parent_value(std::string_view key) const {
    for (const auto& [each, value] : parent) {
        if (each == key) {
            return value;
        }
    }
    return {};
}

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= kIdentifier.size() &&
           std::memcmp(bytes.data(), kIdentifier.data(), kIdentifier.size()) == 0;
}

Result<Header> parse_headers(std::span<const std::byte> start, std::string_view name) {
    if (!is_image(start)) {
        return broken_image("VHDX", name, "this is no VHDX image");
    }
    Header best;
    bool found = false;
    for (unsigned i = 0; i < 2; ++i) {
        if (!lies_within(kHeaderOffset[i], kHeaderBytes, start.size())) {
            continue;
        }
        const auto bytes = start.subspan(kHeaderOffset[i], kHeaderBytes);
        const auto wire = get<WireHeader>(bytes, 0);
        if (wire.signature != kHead || wire.checksum != checksum_of(bytes) || wire.version != 1 ||
            (found && wire.sequence <= best.sequence)) {
            continue;
        }
        found = true;
        best = {i,        wire.sequence,   wire.file_write, wire.data_write,
                wire.log, wire.log_length, wire.log_offset};
        if (best.dirty() && wire.log_version != 0) {
            return unsupported_image(
                "VHDX", name, fmt::format("log version {} is unknown", wire.log_version.value()));
        }
    }
    if (!found) {
        return broken_image("VHDX", name, "none of its two headers is sound");
    }
    if (best.log_length % kMiB != 0 || best.log_offset % kMiB != 0 || best.log_length > kMaxLog ||
        best.log_offset >= (1ULL << 56) || (best.log_length != 0 && best.log_offset < kMiB)) {
        return broken_image(
            "VHDX", name,
            fmt::format("a log of {} bytes at {} cannot be", best.log_length, best.log_offset));
    }
    return best;
}

Result<Regions> parse_regions(std::span<const std::byte> start, std::string_view name) {
    for (const std::uint64_t offset : kRegionOffset) {
        if (!lies_within(offset, kRegionBytes, start.size())) {
            continue;
        }
        const auto bytes = start.subspan(offset, kRegionBytes);
        const auto table = get<WireRegionTable>(bytes, 0);
        if (table.signature != kRegi || table.count > kMaxRegions ||
            table.checksum != checksum_of(bytes)) {
            continue;
        }
        Regions out;
        for (std::uint32_t i = 0; i < table.count; ++i) {
            const auto entry = get<WireRegion>(bytes, sizeof table + i * sizeof(WireRegion));
            if (entry.offset % kMiB != 0 || entry.length % kMiB != 0 || entry.offset < kMiB ||
                entry.offset >= (1ULL << 56)) {
                return broken_image("VHDX", name,
                                    fmt::format("a region of {} bytes at {} cannot be",
                                                entry.length.value(), entry.offset.value()));
            }
            if (entry.id == kBatRegion) {
                out.bat = {entry.offset, entry.length};
            } else if (entry.id == kMetadataRegion) {
                out.metadata = {entry.offset, entry.length};
            } else if ((entry.required & 1) != 0) {
                return unsupported_image(
                    "VHDX", name,
                    fmt::format("it needs the region {}, which is unknown here",
                                format_uuid(entry.id, true)));
            } else {
                out.others.push_back({entry.offset, entry.length});
            }
        }
        if (out.bat.length == 0 || out.metadata.length == 0) {
            return broken_image("VHDX", name, "it lacks its block table or its metadata");
        }
        return out;
    }
    return broken_image("VHDX", name, "none of its two region tables is sound");
}

Result<Parameters> parse_metadata(std::span<const std::byte> metadata, std::string_view name) {
    constexpr std::size_t kTable = 64U << 10;
    if (metadata.size() < kTable ||
        std::memcmp(metadata.data(), kMetadata.data(), kMetadata.size()) != 0 ||
        get<Le16>(metadata, 10) > kMaxItems) {
        return broken_image("VHDX", name, "its metadata is broken");
    }
    Parameters p;
    const std::uint32_t count = get<Le16>(metadata, 10);
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto entry = get<WireItem>(metadata, 32 + i * sizeof(WireItem));
        if ((entry.flags & kUserItem) != 0 && (entry.flags & kRequiredItem) == 0) {
            continue;
        }
        if (entry.length != 0 &&
            (entry.offset < kTable || !lies_within(entry.offset, entry.length, metadata.size()))) {
            return broken_image("VHDX", name,
                                fmt::format("{} bytes of metadata at {} lie outside",
                                            entry.length.value(), entry.offset.value()));
        }
        const auto taken =
            take_item(entry,
                      entry.length == 0 ? std::span<const std::byte>{}
                                        : metadata.subspan(entry.offset, entry.length),
                      p, name);
        if (!taken.ok()) {
            return taken.error().kind() == ErrorKind::NotSupported
                       ? Result<Parameters>(taken.error())
                       : broken_image("VHDX", name,
                                      fmt::format("metadata: {}", taken.error().text()));
        }
    }
    STRATA_TRY_VOID(check_parameters(p, name));
    return p;
}

std::vector<std::byte> serialise_header(const Header& h) {
    WireHeader wire{};
    wire.signature = kHead;
    wire.sequence = h.sequence;
    wire.file_write = h.file_write;
    wire.data_write = h.data_write;
    wire.log = h.log;
    wire.version = std::uint16_t{1};
    wire.log_length = h.log_length;
    wire.log_offset = h.log_offset;
    std::vector<std::byte> out(kHeaderBytes);
    put(out, 0, wire);
    put(out, 4, Le32(checksum_of(out)));
    return out;
}

std::vector<std::byte> serialise_identifier() {
    std::vector<std::byte> out(64U << 10);
    std::memcpy(out.data(), kIdentifier.data(), kIdentifier.size());
    const auto creator = utf16_of_utf8("Strata", false);
    std::memcpy(out.data() + 8, creator.data(), creator.size());
    return out;
}

std::vector<std::byte> serialise_regions(const Regions& regions) {
    std::vector<std::byte> out(kRegionBytes);
    put(out, 0, WireRegionTable{kRegi, 0U, 2U, 0U});
    put(out, 16, WireRegion{kBatRegion, regions.bat.offset, regions.bat.length, 1U});
    put(out, 48, WireRegion{kMetadataRegion, regions.metadata.offset, regions.metadata.length, 1U});
    put(out, 4, Le32(checksum_of(out)));
    return out;
}

std::vector<std::byte> serialise_metadata(const Parameters& p) {
    std::vector<std::byte> out(128U << 10);
    std::memcpy(out.data(), kMetadata.data(), kMetadata.size());
    std::uint16_t count = 0;
    std::uint32_t at = 64U << 10;
    const auto add = [&](const RawUuid& id, std::uint32_t flags, const auto& value) {
        put(out, 32 + std::size_t{count} * sizeof(WireItem),
            WireItem{id, at, static_cast<std::uint32_t>(sizeof value), flags, 0U});
        put(out, at, value);
        at += static_cast<std::uint32_t>(sizeof value);
        ++count;
    };
    add(kFileParameters, kRequiredItem,
        std::array<Le32, 2>{p.block, (p.leave_allocated ? 1U : 0U) | (p.has_parent ? 2U : 0U)});
    add(kDiskSize, kVirtualDiskItem | kRequiredItem, Le64(p.size));
    add(kDiskId, kVirtualDiskItem | kRequiredItem, p.disk_id);
    add(kLogicalSector, kVirtualDiskItem | kRequiredItem, Le32(p.logical_sector));
    add(kPhysicalSector, kVirtualDiskItem | kRequiredItem, Le32(p.physical_sector));
    put(out, 10, Le16(count));
    return out;
}

}  // namespace strata::block::vhdx
