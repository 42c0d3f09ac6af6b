// Creating qcow2 images: header, refcount table, refcount blocks, L1 table, in this order from the
// start of the file.
#include "block/formats/qcow2/create.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <vector>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/bitmap_directory.h"
#include "block/formats/qcow2/qcow2.h"
#include "block/protocols/file/file_node.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

using Kind = CreateOption::Kind;

constexpr std::array kOptions{
    CreateOption{"backing_file", Kind::Text, "File name of a base image"},
    CreateOption{"backing_fmt", Kind::Text, "Image format of the base image"},
    CreateOption{"cluster_size", Kind::Size, "qcow2 cluster size", "65536"},
    CreateOption{"compat", Kind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])", "v3"},
    CreateOption{"compression_type", Kind::Text,
                 "Compression method used for image cluster compression", "zlib"},
    CreateOption{"data_file", Kind::Text, "File name of an external data file"},
    CreateOption{"data_file_raw", Kind::Flag,
                 "The external data file must stay valid as a raw image"},
    CreateOption{"encrypt.cipher-alg", Kind::Text, "Name of encryption cipher algorithm"},
    CreateOption{"encrypt.cipher-mode", Kind::Text, "Name of encryption cipher mode"},
    CreateOption{"encrypt.format", Kind::Text, "Encrypt the image, format choices: 'aes', 'luks'"},
    CreateOption{"encrypt.hash-alg", Kind::Text, "Name of encryption hash algorithm"},
    CreateOption{"encrypt.iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"},
    CreateOption{"encrypt.ivgen-alg", Kind::Text, "Name of IV generator algorithm"},
    CreateOption{"encrypt.ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm"},
    CreateOption{"encrypt.key-secret", Kind::Text,
                 "ID of secret providing qcow AES key or LUKS passphrase"},
    CreateOption{
        "encryption", Kind::Flag,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"},
    CreateOption{"extended_l2", Kind::Flag, "Extended L2 tables", "off"},
    CreateOption{"lazy_refcounts", Kind::Flag, "Postpone refcount updates", "off"},
    CreateOption{"preallocation", Kind::Text,
                 "Preallocation mode (allowed values: off, metadata, falloc, full)", "off"},
    CreateOption{"refcount_bits", Kind::Number, "Width of a reference count entry in bits", "16"},
    CreateOption{"size", Kind::Size, "Virtual disk size"},
};

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text), EINVAL};
}

Result<std::uint32_t> version_of(const CreateRequest& request) {
    const std::string_view compat = request.option("compat", "v3");
    if (compat == "0.10" || compat == "v2") {
        return 2U;
    }
    if (compat == "1.1" || compat == "v3") {
        return 3U;
    }
    return wrong(worded(fmt::format("compat={}: use 0.10 (v2) or 1.1 (v3)", compat),
                        fmt::format("Parameter 'version' does not accept value '{}'", compat)));
}

Result<Preallocation> preallocation_of(const CreateRequest& request) {
    const std::string_view mode = request.option("preallocation", "off");
    constexpr std::array<std::string_view, 4> kModes{"off", "metadata", "falloc", "full"};
    for (std::size_t i = 0; i < kModes.size(); ++i) {
        if (kModes[i] == mode) {
            return static_cast<Preallocation>(i);
        }
    }
    return wrong(worded(fmt::format("preallocation={}: use off, metadata, falloc or full", mode),
                        fmt::format("Parameter 'preallocation' does not accept value '{}'", mode)));
}

Result<> plan_features(const CreateRequest& request, Header& h) {
    const std::uint64_t refcount_bits = STRATA_TRY(request.number("refcount_bits", 16));
    const bool extended = STRATA_TRY(request.flag("extended_l2", false));
    const bool lazy = STRATA_TRY(request.flag("lazy_refcounts", false));
    const bool raw = STRATA_TRY(request.flag("data_file_raw", false));
    const std::string_view compression = request.option("compression_type", "zlib");
    if (!std::has_single_bit(refcount_bits) || refcount_bits > 64) {
        return wrong(
            worded(fmt::format("refcount_bits={}: must be a power of two up to 64", refcount_bits),
                   "Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if (compression != "zlib" && compression != "zstd") {
        return wrong(worded(
            fmt::format("compression_type={}: use zlib or zstd", compression),
            fmt::format("Parameter 'compression-type' does not accept value '{}'", compression)));
    }
    h.data_file = request.option("data_file");
    h.compression = compression == "zstd" ? Compression::Zstd : Compression::Zlib;
    const std::array newer = {
        std::pair{extended, "Extended L2 entries are"}, std::pair{lazy, "Lazy refcounts"},
        std::pair{refcount_bits != 16, "Different refcount widths than 16 bits require"},
        std::pair{!h.data_file.empty(), "External data files are"},
        std::pair{h.compression != Compression::Zlib, "Non-zlib compression type is"}};
    for (const auto& [used, what] : newer) {
        if (used && h.version < 3) {
            const std::string_view only = std::string_view(what).ends_with("require")
                                              ? " compatibility level 1.1 or"
                                              : " only supported with compatibility level 1.1 and";
            return wrong(
                worded("compat=0.10 has none of refcount_bits, extended_l2, lazy_refcounts, "
                       "compression_type=zstd, data_file; use compat=1.1",
                       fmt::format("{}{} above (use version=v3 or greater)", what, only)));
        }
    }
    if (raw && h.data_file.empty()) {
        return wrong(worded("data_file_raw needs data_file", "data-file-raw requires data-file"));
    }
    h.refcount_order = static_cast<std::uint32_t>(std::countr_zero(refcount_bits));
    h.incompatible = (extended ? kExtendedL2 : 0) |
                     (h.compression != Compression::Zlib ? kCompressionType : 0) |
                     (h.data_file.empty() ? 0 : kExternalData);
    h.compatible = lazy ? kLazyRefcounts : 0;
    h.autoclear = raw ? kRawExternalData : 0;
    return ok();
}

Result<Header> plan(const CreateRequest& request) {
    Header h;
    h.version = STRATA_TRY(version_of(request));
    STRATA_TRY_VOID(plan_features(request, h));
    const std::uint64_t cluster = STRATA_TRY(request.number("cluster_size", 65536));
    const std::uint64_t least = h.extended() ? 16384 : 512;
    if (!std::has_single_bit(cluster) || cluster < least || cluster > (2U << 20)) {
        return wrong(worded(
            fmt::format("cluster_size={}: must be a power of two from {} to 2M", cluster, least),
            least == 512 ? "Cluster size must be a power of two between 512 and 2048k"
                         : "Extended L2 entries are only supported with cluster sizes of at least "
                           "16384 bytes"));
    }
    h.cluster_bits = static_cast<std::uint32_t>(std::countr_zero(cluster));
    h.backing = request.option("backing_file");
    h.backing_format = request.option("backing_fmt");
    if (h.backing.empty() != h.backing_format.empty()) {
        return wrong("a backing file needs its format and the other way round: -b FILE -F FORMAT");
    }
    if ((h.autoclear & kRawExternalData) != 0 && !h.backing.empty()) {
        return wrong(worded("data_file_raw and a backing file exclude each other",
                            "Backing file and data-file-raw cannot be used at the same time"));
    }
    if (request.size > (1ULL << 62)) {
        return Error{ErrorKind::InvalidArgument,
                     worded(fmt::format("a size of {} bytes is too large", request.size),
                            "The image size is too large (try using a larger cluster size)"),
                     EFBIG};
    }
    h.size = (request.size + 511) / 512 * 512;
    if (h.l1_needed() * 8 > kMaxL1Bytes) {
        return Error{ErrorKind::InvalidArgument,
                     worded(fmt::format("{} bytes are too many for clusters of {}; use a larger "
                                        "cluster_size",
                                        request.size, cluster),
                            "The image size is too large (try using a larger cluster size)"),
                     EFBIG};
    }
    return h;
}

constexpr std::uint64_t rounded_up(std::uint64_t value, std::uint64_t unit) {
    return (value + unit - 1) / unit;
}

/// Refcount blocks and table clusters for `used` other clusters.
struct Refcounting {
    std::uint64_t blocks = 1, table = 1;
};
Refcounting refcounting_for(const Header& h, std::uint64_t used) {
    Refcounting r;
    for (std::uint64_t before = 0; before != r.blocks + r.table;) {
        before = r.blocks + r.table;
        r.blocks = rounded_up(used + before, h.refcounts_per_block());
        r.table = rounded_up(r.blocks * 8, h.cluster());
    }
    return r;
}

/// The image's first clusters: header, refcount table, refcount blocks.
Task<> write_start(Node& file, Header h, std::uint64_t l1_clusters) {
    const Refcounting r = refcounting_for(h, 1 + l1_clusters);
    const std::uint64_t total = 1 + r.table + r.blocks + l1_clusters;
    const std::uint64_t first_block = (1 + r.table) * h.cluster();
    h.refcount_table_offset = h.cluster();
    h.refcount_table_clusters = static_cast<std::uint32_t>(r.table);
    h.l1_entries = static_cast<std::uint32_t>(h.l1_needed());
    h.l1_offset = first_block + r.blocks * h.cluster();
    STRATA_CO_TRY(const std::vector<std::byte> head, serialise_header(h));
    STRATA_CO_TRY_VOID(co_await file.write_zeroes(
        0, h.l1_entries == 0 ? h.l1_offset : h.l1_offset + h.l1_entries * 8ULL, {}));
    std::vector<Be64> entries;
    for (std::uint64_t i = 0; i < r.blocks; ++i) {
        entries.emplace_back(first_block + i * h.cluster());
    }
    STRATA_CO_TRY_VOID(co_await file.write(h.refcount_table_offset,
                                           Buffers::of(std::as_bytes(std::span(entries)))));
    // Refcount 1 for each of the `total` first clusters; the blocks lie one behind the other.
    const std::uint64_t width = 1ULL << h.refcount_order;
    std::vector<std::byte> counts(rounded_up(total * width, 8));
    for (std::uint64_t i = 0; i < total; ++i) {
        if (width < 8) {
            counts[i * width / 8] |= static_cast<std::byte>(1U << (i * width % 8));
        } else {
            counts[(i + 1) * width / 8 - 1] = std::byte{1};
        }
    }
    STRATA_CO_TRY_VOID(co_await file.write(first_block, Buffers::of(counts)));
    co_return co_await file.write(0, Buffers::of(head));
}

/// What the bitmaps of a source take, all of their bits allocated.
std::uint64_t bitmaps_size(const std::vector<BitmapInfo>& bitmaps, const Header& h) {
    std::uint64_t total = 0, directory = 0;
    for (const BitmapInfo& each : bitmaps) {
        const std::uint64_t bytes =
            bitmap_bytes(h.size, static_cast<unsigned>(std::countr_zero(each.granularity)));
        const std::uint64_t clusters = rounded_up(bytes, h.cluster());
        total += (clusters + rounded_up(clusters * 8, h.cluster())) * h.cluster();
        directory += (24 + each.name.size() + 7) / 8 * 8;
    }
    return total + rounded_up(directory, h.cluster()) * h.cluster();
}

/// Header::encryption to be.
Result<std::uint32_t> encryption_of(const CreateRequest& request) {
    const bool old = STRATA_TRY(request.flag("encryption", false));
    const std::string_view format = request.option("encrypt.format", old ? "aes" : "");
    if (old && !request.option("encrypt.format").empty()) {
        return wrong("Options encryption and encrypt.format are mutually exclusive");
    }
    if (format.empty()) {
        return 0U;
    }
    if (format != "aes" && format != "luks") {
        return wrong(fmt::format("Unknown encryption format '{}': use luks or aes", format));
    }
    if (STRATA_TRY(request.flag("data_file_raw", false))) {
        return wrong("data_file_raw and encryption exclude each other");
    }
    return format == "luks" ? kEncryptionLuks : kEncryptionAes;
}

/// The header of an encrypted image; empty for AES, which has none.
Task<luks::MadeVolume> make_keys(Loop& loop, const CreateRequest& request,
                                 std::uint32_t encryption) {
    if (request.option("encrypt.key-secret").empty()) {
        co_return wrong("Parameter 'encrypt.key-secret' is required for cipher");
    }
    if (encryption == kEncryptionAes) {
        co_return luks::MadeVolume{};
    }
    STRATA_CO_TRY(luks::NewVolume plan, luks::plan_volume(request, "encrypt."));
    co_return co_await luks::make_volume(loop, std::move(plan));
}

Task<> create_data_file(Loop& loop, std::string path, const Header& h,
                        Preallocation preallocation) {
    STRATA_CO_TRY(const auto data, co_await open_new(loop, std::move(path), 0));
    STRATA_CO_TRY_VOID(co_await data->resize(
        h.size, preallocation == Preallocation::Metadata ? Preallocation::Off : preallocation));
    co_return co_await data->close();
}

}  // namespace

std::span<const CreateOption> create_options() {
    return kOptions;
}

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const Header h, plan(request));
    STRATA_CO_TRY(Preallocation preallocation, preallocation_of(request));
    if (preallocation != Preallocation::Off && !h.backing.empty() && !h.extended()) {
        co_return wrong(
            worded("preallocation over a backing file would hide it; it needs extended_l2=on",
                   "Backing file and preallocation can only be used at the same time if "
                   "extended_l2 is on"));
    }
    if ((h.autoclear & kRawExternalData) != 0 && preallocation == Preallocation::Off) {
        preallocation =
            Preallocation::Metadata;  // the raw file is the disk: each cluster is mapped
    }
    STRATA_CO_TRY(const std::uint32_t encryption, encryption_of(request));
    luks::MadeVolume volume;
    if (encryption != 0) {
        STRATA_CO_TRY(volume, co_await make_keys(loop, request, encryption));
        if (preallocation != Preallocation::Off && h.version < 3) {
            co_return wrong("preallocation of an encrypted image needs compat=1.1");
        }
    }
    const std::string data_path =
        (std::filesystem::path(request.path).parent_path() / h.data_file).string();
    if (!h.data_file.empty()) {
        STRATA_CO_TRY_VOID(co_await create_data_file(loop, data_path, h, preallocation));
    }
    STRATA_CO_TRY(NodePtr file, co_await open_new(loop, request.path, 0));
    Header empty = h;
    empty.size = preallocation == Preallocation::Off ? h.size : 0;
    STRATA_CO_TRY_VOID(co_await write_start(*file, preallocation == Preallocation::Off ? h : empty,
                                            rounded_up(empty.l1_needed() * 8, h.cluster())));
    if (preallocation != Preallocation::Off || encryption != 0) {
        OpenOptions options;
        options.path = request.path;
        options.format = "qcow2";
        options.open_backing = false;
        options.references = h.data_file.empty() ? nullptr : follow_references();
        STRATA_CO_TRY(const NodePtr node, co_await Qcow2Node::open(file, std::move(options)));
        if (encryption != 0) {
            STRATA_CO_TRY_VOID(co_await dynamic_cast<Qcow2Node&>(*node).encrypt(std::move(volume)));
        }
        if (preallocation != Preallocation::Off) {
            STRATA_CO_TRY_VOID(co_await node->resize(h.size, preallocation));
        }
        co_return co_await node->close();
    }
    co_return co_await file->close();
}

Task<Measurement> measure(Node* source, CreateRequest request) {
    if (source != nullptr) {
        request.size = source->size();
    }
    // How much of the source a backing file would have is not known: nothing, then.
    const bool over = !request.option("backing_file").empty();
    std::erase_if(request.options,
                  [](const auto& each) { return each.first.starts_with("backing_"); });
    STRATA_CO_TRY(const Header h, plan(request));
    STRATA_CO_TRY(const Preallocation preallocation, preallocation_of(request));
    const std::uint64_t all = rounded_up(h.size, h.cluster());
    const bool whole = preallocation == Preallocation::Falloc ||
                       preallocation == Preallocation::Full || (over && source != nullptr);
    std::uint64_t used = whole ? all : 0;
    if (source != nullptr && !whole) {
        // Clusters with data, counted once each.
        std::uint64_t next = 0;
        for (std::uint64_t at = 0; at < h.size;) {
            STRATA_CO_TRY(const Extent extent,
                          co_await status_of_chain(*source, nullptr, at, h.size - at));
            if (extent.kind == Extent::Kind::Data) {
                const std::uint64_t first = std::max(next, at / h.cluster());
                const std::uint64_t end = rounded_up(at + extent.length, h.cluster());
                used += end > first ? end - first : 0;
                next = std::max(next, end);
            }
            at += extent.length;
        }
    }
    std::uint64_t tables = rounded_up(h.l1_needed() * 8, h.cluster());
    STRATA_CO_TRY(const std::uint32_t encryption, encryption_of(request));
    if (encryption == kEncryptionLuks) {
        STRATA_CO_TRY(const luks::NewVolume volume, luks::plan_volume(request, "encrypt."));
        tables += rounded_up(volume.header.payload, h.cluster());
    }
    const std::uint64_t l2 = rounded_up(all, h.l2_entries());
    const auto total = [&](std::uint64_t data) {
        const std::uint64_t others = 1 + tables + l2 + (h.data_file.empty() ? data : 0);
        const Refcounting r = refcounting_for(h, others);
        return (others + r.blocks + r.table) * h.cluster();
    };
    // As the peer counts: tables for a full disk, data for what there is.
    const std::uint64_t absent = h.data_file.empty() ? (all - used) * h.cluster() : 0;
    Measurement result{.required = total(all) - absent, .fully_allocated = total(all)};
    if (source != nullptr && h.version >= 3) {
        const auto bitmaps = co_await source->bitmaps();
        if (bitmaps.ok()) {
            result.bitmaps = bitmaps_size(*bitmaps, h);
        }
    }
    co_return result;
}

}  // namespace strata::block::qcow2
