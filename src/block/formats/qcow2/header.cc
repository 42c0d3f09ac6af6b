// Qcow2Header: field by field.
#include "block/formats/qcow2/header.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint32_t kExtEnd = 0, kExtBackingFormat = 0xE2792ACA, kExtFeatures = 0x6803F857,
                        kExtDataFile = 0x44415441;
constexpr std::size_t kFeatureBytes = 48;  // an entry of the feature table
constexpr std::uint64_t kKnownIncompatible =
    kDirty | kCorrupt | kExternalData | kCompressionType | kExtendedL2;
constexpr std::size_t kFeatureEntry = 48;

struct Wire {
    Be32 magic, version;
    Be64 backing_offset;
    Be32 backing_size, cluster_bits;
    Be64 size;
    Be32 encryption, l1_entries;
    Be64 l1_offset, refcount_table_offset;
    Be32 refcount_table_clusters, snapshots;
    Be64 snapshots_offset;
};
struct Wire3 {
    Be64 incompatible, compatible, autoclear;
    Be32 refcount_order, header_length;
};
static_assert(sizeof(Wire) == 72 && sizeof(Wire3) == 32);

Error bad(std::string_view name, std::string_view what) {
    return {ErrorKind::Failed, fmt::format("qcow2 image '{}': {}", name, what), EINVAL};
}

Result<> check_table(const Header& h, std::string_view name, std::string_view what,
                     std::uint64_t offset, std::uint64_t bytes, std::uint64_t limit) {
    if (bytes > limit) {
        return bad(name,
                   fmt::format("its {} of {} bytes is over the limit of {}", what, bytes, limit));
    }
    if (bytes != 0 &&
        (offset % h.cluster() != 0 || offset >= kMaxHostOffset || offset < h.cluster())) {
        return bad(name, fmt::format("its {} lies at {}, where none can be", what, offset));
    }
    return ok();
}

Result<> check_header(const Header& h, std::string_view name, bool any_snapshots) {
    if (h.cluster_bits < (h.extended() ? 14U : 9U) || h.cluster_bits > 21) {
        return bad(name, fmt::format("cluster bits {} are outside {} to 21", h.cluster_bits,
                                     h.extended() ? 14 : 9));
    }
    if (h.refcount_order > 6) {
        return bad(name, fmt::format("refcount order {} is over 6", h.refcount_order));
    }
    if (h.size > (1ULL << 62)) {
        return bad(name, fmt::format("a virtual size of {} bytes is too large", h.size));
    }
    if (h.encryption > 2) {
        return bad(name, fmt::format("unknown encryption method {}", h.encryption));
    }
    STRATA_TRY_VOID(
        check_table(h, name, "L1 table", h.l1_offset, h.l1_entries * 8ULL, kMaxL1Bytes));
    if (h.refcount_table_clusters == 0) {
        return bad(name, "it has no refcount table");
    }
    STRATA_TRY_VOID(check_table(h, name, "refcount table", h.refcount_table_offset,
                                std::uint64_t{h.refcount_table_clusters} << h.cluster_bits,
                                kMaxRefcountTableBytes));
    if (h.l1_entries < h.l1_needed()) {
        return Error{
            ErrorKind::Failed,
            worded(fmt::format("qcow2 image '{}': its L1 table has {} entries, its size needs {}",
                               name, h.l1_entries, h.l1_needed()),
                   h.l1_needed() * 8 > kMaxL1Bytes ? "Image is too big" : "L1 table is too small"),
            EINVAL};
    }
    if (h.snapshots > kMaxSnapshots && !any_snapshots) {
        return Error{ErrorKind::Failed,
                     worded(fmt::format("qcow2 image '{}': its snapshot table of {} entries is "
                                        "over the limit of {}; 'check --repair all' drops the rest",
                                        name, h.snapshots, kMaxSnapshots),
                            "Snapshot table too large"),
                     EFBIG};
    }
    return check_table(h, name, "snapshot table", h.snapshots_offset, h.snapshots, ~0ULL);
}

std::string feature_names(std::span<const std::byte> table, std::uint64_t unknown) {
    std::string names;
    const std::string_view quote = wording() == Wording::Qemu ? "" : "'";
    while (table.size() > 2) {
        const auto entry = table.first(
            std::min(table.size(), kFeatureEntry));  // the last one may lack its padding
        table = table.subspan(entry.size());
        const auto bit = static_cast<unsigned>(entry[1]);
        if (entry[0] == std::byte{0} && bit < 64 && (unknown >> bit & 1) != 0) {
            unknown &= ~(1ULL << bit);
            names += names.empty() ? "" : ", ";
            names += quote;
            for (std::size_t i = 2; i < entry.size() && entry[i] != std::byte{0}; ++i) {
                const char c = static_cast<char>(entry[i]);
                names += c >= ' ' && c < 127 ? c : '?';
            }
            names += quote;
        }
    }
    if (unknown != 0 && wording() == Wording::Qemu) {
        return fmt::format("{}{}Unknown incompatible feature: {:x}", names,
                           names.empty() ? "" : ", ", unknown);
    }
    return unknown == 0
               ? names
               : fmt::format("{}{}bits {:#x}", names, names.empty() ? "" : " and ", unknown);
}

std::string text_of(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte each : bytes) {
        text += static_cast<char>(each);
    }
    return text;
}

Result<> read_extensions(std::span<const std::byte> bytes, std::size_t at, Header& h,
                         std::string_view name, std::span<const std::byte>& features) {
    while (at + 8 <= bytes.size()) {
        ByteReader reader(bytes.subspan(at));
        const std::uint32_t type = STRATA_TRY(reader.read<Be32>());
        const std::uint32_t length = STRATA_TRY(reader.read<Be32>());
        if (type == kExtEnd) {
            return ok();
        }
        const auto content = reader.take(length);
        if (!content.ok()) {
            return bad(name,
                       fmt::format("a header extension of {} bytes does not fit its first cluster",
                                   length));
        }
        if (type == kExtBackingFormat) {
            h.backing_format = text_of(*content);
        } else if (type == kExtDataFile) {
            h.data_file = text_of(*content);
        } else {
            features = type == kExtFeatures ? *content : features;
            h.has_bitmaps = h.has_bitmaps || type == kBitmapsExtension;
            h.extensions.emplace_back(type,
                                      std::vector<std::byte>(content->begin(), content->end()));
        }
        at += 8 + (std::size_t{length} + 7) / 8 * 8;
    }
    return ok();
}

Result<std::string> read_backing(std::span<const std::byte> bytes, std::uint64_t offset,
                                 std::uint32_t length, std::string_view name) {
    if (length > kMaxBackingName || offset > bytes.size() || length > bytes.size() - offset) {
        return bad(
            name,
            fmt::format("its backing file's name ({} bytes at {}) is not within the first cluster",
                        length, offset));
    }
    std::string text = text_of(bytes.subspan(offset, length));
    if (text.find('\0') != std::string::npos) {
        return bad(name, "its backing file's name has a NUL in it");
    }
    return text;
}

void append(std::vector<std::byte>& out, const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    out.insert(out.end(), from, from + size);
}

void append_extension(std::vector<std::byte>& out, std::uint32_t type, std::string_view content) {
    const Be32 head[2] = {type, static_cast<std::uint32_t>(content.size())};
    append(out, head, sizeof head);
    append(out, content.data(), content.size());
    out.resize((out.size() + 7) / 8 * 8);
}

/// The names of the features known here, for readers that do not know them: type, bit, name in 48
/// bytes each.
std::string feature_table() {
    struct Feature {
        char type, bit;
        std::string_view name;
    };
    constexpr std::array<Feature, 8> kFeatures = {{{0, 0, "dirty bit"},
                                                   {0, 1, "corrupt bit"},
                                                   {0, 2, "external data file"},
                                                   {0, 3, "compression type"},
                                                   {0, 4, "extended L2 entries"},
                                                   {1, 0, "lazy refcounts"},
                                                   {2, 0, "bitmaps"},
                                                   {2, 1, "raw external data"}}};
    std::string table;
    for (const Feature& each : kFeatures) {
        table += each.type;
        table += each.bit;
        table += each.name;
        table.resize((table.size() + kFeatureBytes - 1) / kFeatureBytes * kFeatureBytes);
    }
    return table;
}

/// Where a v3 header has room for it beside the backing file's name.
bool wants_feature_table(const Header& h, std::size_t used) {
    const bool has = std::ranges::any_of(h.extensions,
                                         [](const auto& one) { return one.first == kExtFeatures; });
    return h.version == 3 && !has &&
           used + 8 * kFeatureBytes + 16 + h.backing.size() <= h.cluster();
}

/// `features`: with the table of their names, which may be left out.
std::vector<std::byte> build_header(const Header& h, bool features) {
    std::vector<std::byte> out(h.version == 3 ? 112 : sizeof(Wire));
    if (!h.backing_format.empty()) {
        append_extension(out, kExtBackingFormat, h.backing_format);
    }
    if (!h.data_file.empty()) {
        append_extension(out, kExtDataFile, h.data_file);
    }
    if (features && wants_feature_table(h, out.size())) {
        append_extension(out, kExtFeatures, feature_table());
    }
    for (const auto& [type, content] : h.extensions) {
        if (type == kExtFeatures && (!features || h.version < 3)) {
            continue;
        }
        // SAFETY: bytes as characters.
        append_extension(out, type,
                         {reinterpret_cast<const char*>(content.data()), content.size()});
    }
    append_extension(out, kExtEnd, "");
    Wire wire{};
    wire.magic = kMagic;
    wire.version = h.version;
    if (!h.backing.empty()) {
        wire.backing_offset = out.size();
        wire.backing_size = static_cast<std::uint32_t>(h.backing.size());
        append(out, h.backing.data(), h.backing.size());
    }
    wire.cluster_bits = h.cluster_bits;
    wire.size = h.size;
    wire.l1_entries = h.l1_entries;
    wire.l1_offset = h.l1_offset;
    wire.refcount_table_offset = h.refcount_table_offset;
    wire.refcount_table_clusters = h.refcount_table_clusters;
    wire.encryption = h.encryption;
    wire.snapshots = h.snapshots;
    wire.snapshots_offset = h.snapshots_offset;
    std::memcpy(out.data(), &wire, sizeof wire);
    if (h.version == 3) {
        Wire3 more{};
        more.incompatible = h.incompatible;
        more.compatible = h.compatible;
        more.autoclear = h.autoclear;
        more.refcount_order = h.refcount_order;
        more.header_length = 112U;
        std::memcpy(out.data() + sizeof wire, &more, sizeof more);
        out[104] = static_cast<std::byte>(h.compression);
    }
    return out;
}

Header header_of(const Wire& wire) {
    Header h;
    h.version = wire.version;
    h.cluster_bits = wire.cluster_bits;
    h.size = wire.size;
    h.encryption = wire.encryption;
    h.l1_entries = wire.l1_entries;
    h.l1_offset = wire.l1_offset;
    h.refcount_table_offset = wire.refcount_table_offset;
    h.refcount_table_clusters = wire.refcount_table_clusters;
    h.snapshots = wire.snapshots;
    h.snapshots_offset = wire.snapshots_offset;
    return h;
}

// What version 3 has more. The header's length.
Result<std::size_t> read_version3(ByteReader& reader, std::span<const std::byte> bytes, Header& h,
                                  std::string_view name) {
    const auto more = reader.read<Wire3>();
    if (!more.ok()) {
        return bad(name, "its header is cut off");
    }
    h.incompatible = more->incompatible;
    h.compatible = more->compatible;
    h.autoclear = more->autoclear;
    h.refcount_order = more->refcount_order;
    const std::size_t length = more->header_length;
    if (length < sizeof(Wire) + sizeof(Wire3) || length % 8 != 0 || length > bytes.size()) {
        return bad(name, fmt::format("a header of {} bytes cannot be", length));
    }
    if (length > 104) {
        h.compression = static_cast<Compression>(bytes[104]);
    }
    return length;
}

Result<> check_features(const Header& h, std::span<const std::byte> features,
                        std::string_view name) {
    if ((h.incompatible & ~kKnownIncompatible) != 0) {
        const std::string names = feature_names(features, h.incompatible & ~kKnownIncompatible);
        return Error{ErrorKind::NotSupported,
                     worded(fmt::format("qcow2 image '{}' needs features that are unknown here: {}",
                                        name, names),
                            fmt::format("Unsupported qcow2 feature(s): {}", names)),
                     ENOTSUP};
    }
    if (static_cast<unsigned>(h.compression) > 1 ||
        ((h.incompatible & kCompressionType) != 0) != (h.compression != Compression::Zlib)) {
        return bad(name, fmt::format("compression type {} does not fit its features",
                                     static_cast<unsigned>(h.compression)));
    }
    return ok();
}

}  // namespace

std::uint64_t Header::l1_needed() const {
    const std::uint64_t covered = cluster() * l2_entries();
    return size / covered + (size % covered != 0 ? 1 : 0);
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name,
                            bool any_snapshots) {
    ByteReader reader(bytes);
    const auto read = reader.read<Wire>();
    if (!read.ok() || read->magic != kMagic) {
        return bad(name, "this is no qcow2 image; name its format, e.g. format=raw");
    }
    const Wire& wire = *read;
    if (wire.version != 2 && wire.version != 3) {
        return bad(name, fmt::format("version {} is unknown", wire.version.value()));
    }
    Header h = header_of(wire);
    std::size_t length = sizeof(Wire);
    if (h.version == 3) {
        length = STRATA_TRY(read_version3(reader, bytes, h, name));
    }
    if (h.cluster_bits < 9 || h.cluster_bits > 21) {
        return bad(name, fmt::format("cluster bits {} are outside 9 to 21", h.cluster_bits));
    }
    if (bytes.size() > h.cluster()) {
        bytes = bytes.first(h.cluster());
    }
    std::span<const std::byte> features;
    STRATA_TRY_VOID(read_extensions(bytes, length, h, name, features));
    h.has_bitmaps = h.has_bitmaps && h.version >= 3 && (h.autoclear & kBitmaps) != 0;
    if (!h.has_bitmaps) {  // somebody who did not know them wrote to the image: they say nothing
        std::erase_if(h.extensions,
                      [](const auto& each) { return each.first == kBitmapsExtension; });
    }
    STRATA_TRY_VOID(check_features(h, features, name));
    if (wire.backing_offset != 0) {
        h.backing = STRATA_TRY(read_backing(bytes, wire.backing_offset, wire.backing_size, name));
    }
    STRATA_TRY_VOID(check_header(h, name, any_snapshots));
    return h;
}

Result<std::vector<std::byte>> serialise_header(const Header& h, bool features) {
    std::vector<std::byte> out = build_header(h, features);
    if (out.size() > h.cluster()) {
        out = build_header(h, false);
    }
    if (out.size() > h.cluster() || h.backing.size() > kMaxBackingName) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("the backing file's name of {} bytes is too long for the image's header",
                        h.backing.size())};
    }
    return out;
}

}  // namespace strata::block::qcow2
