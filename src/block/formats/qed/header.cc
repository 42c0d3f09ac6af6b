// QedHeader: field by field.
#include "block/formats/qed/header.h"

#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::qed {
namespace {

struct Wire {
    Le32 magic, cluster, table_clusters, header_clusters;
    Le64 features, compatible, autoclear, l1_offset, size;
    Le32 backing_offset, backing_bytes;
};
static_assert(sizeof(Wire) == kHeaderBytes);
constexpr std::uint32_t kMagic = 0x00444551;
constexpr std::uint64_t kKnownFeatures = kBackingFile | kNeedCheck | kBackingIsRaw;

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= 4 && get<Le32>(bytes, 0) == kMagic;
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || !is_image(bytes)) {
        return broken_image("QED", name, "this is no QED image");
    }
    Header h;
    h.cluster = read->cluster;
    h.table_clusters = read->table_clusters;
    h.header_clusters = read->header_clusters;
    h.features = read->features;
    h.compatible = read->compatible;
    h.autoclear = read->autoclear;
    h.l1_offset = read->l1_offset;
    h.size = read->size;
    h.backing_offset = read->backing_offset;
    h.backing_bytes = read->backing_bytes;
    if ((h.features & ~kKnownFeatures) != 0) {
        return unsupported_image("QED", name,
                                 fmt::format("it needs the features {:#x}, which are unknown here",
                                             h.features & ~kKnownFeatures));
    }
    if (!std::has_single_bit(h.cluster) || h.cluster < 4096 || h.cluster > (64U << 20)) {
        return broken_image("QED", name, fmt::format("clusters of {} bytes cannot be", h.cluster));
    }
    if (!std::has_single_bit(h.table_clusters) || h.table_clusters > 16 ||
        h.table_bytes() > (64ULL << 20)) {
        return broken_image("QED", name,
                            fmt::format("tables of {} clusters cannot be", h.table_clusters));
    }
    if (h.size % 512 != 0 || h.size > (1ULL << 62) ||
        divide_up(divide_up(h.size, h.cluster), h.table_entries()) > h.table_entries()) {
        return broken_image("QED", name, fmt::format("a disk of {} bytes cannot be", h.size));
    }
    if (h.header_clusters == 0 || h.l1_offset % h.cluster != 0 || h.l1_offset < h.cluster ||
        h.l1_offset > (1ULL << 60)) {
        return broken_image("QED", name,
                            fmt::format("its L1 table lies at {}, where none can be", h.l1_offset));
    }
    if ((h.features & kBackingFile) != 0 &&
        (h.backing_bytes > 1023 || !lies_within(h.backing_offset, h.backing_bytes,
                                                std::uint64_t{h.header_clusters} * h.cluster))) {
        return broken_image("QED", name,
                            fmt::format("a backing file's name of {} bytes at {} cannot be",
                                        h.backing_bytes, h.backing_offset));
    }
    return h;
}

}  // namespace strata::block::qed
