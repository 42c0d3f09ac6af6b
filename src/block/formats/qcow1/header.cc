// Qcow1Header: field by field.
#include "block/formats/qcow1/header.h"

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::qcow1 {
namespace {

struct Wire {
    Be32 magic, version;
    Be64 backing_offset;
    Be32 backing_bytes, modified;
    Be64 size;
    std::uint8_t cluster_bits = 0, l2_bits = 0;
    Be16 padding;
    Be32 encryption;
    Be64 l1_offset;
};
static_assert(sizeof(Wire) == kHeaderBytes);
constexpr std::uint32_t kMagic = 0x514649FB;

}  // namespace

std::uint64_t Header::l1_entries() const {
    return divide_up(size, cluster() << l2_bits);
}

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= 8 && get<Be32>(bytes, 0) == kMagic && get<Be32>(bytes, 4) == 1;
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || !is_image(bytes)) {
        return broken_image("qcow", name, "this is no qcow image of version 1");
    }
    Header h;
    h.size = read->size;
    h.cluster_bits = read->cluster_bits;
    h.l2_bits = read->l2_bits;
    h.encryption = read->encryption;
    h.l1_offset = read->l1_offset;
    h.backing_offset = read->backing_offset;
    h.backing_bytes = read->backing_bytes;
    h.modified = read->modified;
    if (h.cluster_bits < 9 || h.cluster_bits > 16 || h.l2_bits < 6 || h.l2_bits > 13) {
        return broken_image(
            "qcow", name,
            fmt::format("clusters of 2^{} bytes with tables of 2^{} entries cannot be",
                        h.cluster_bits, h.l2_bits));
    }
    if (h.size <= 1 || h.size > (1ULL << 56) || h.l1_entries() > kMaxL1Bytes / 8) {
        return broken_image("qcow", name, fmt::format("a disk of {} bytes cannot be", h.size));
    }
    if (h.encryption > 1) {
        return broken_image("qcow", name,
                            fmt::format("unknown encryption method {}", h.encryption));
    }
    if (h.l1_offset < kHeaderBytes || h.l1_offset > (1ULL << 56)) {
        return broken_image("qcow", name,
                            fmt::format("its L1 table lies at {}, where none can be", h.l1_offset));
    }
    if (h.backing_offset != 0 &&
        (h.backing_bytes > kMaxBackingName || h.backing_offset > (1ULL << 56))) {
        return broken_image("qcow", name,
                            fmt::format("a backing file's name of {} bytes at {} cannot be",
                                        h.backing_bytes, h.backing_offset));
    }
    return h;
}

std::vector<std::byte> serialise_header(const Header& h) {
    Wire wire{};
    wire.magic = kMagic;
    wire.version = 1U;
    wire.backing_offset = h.backing_offset;
    wire.backing_bytes = h.backing_bytes;
    wire.modified = h.modified;
    wire.size = h.size;
    wire.cluster_bits = static_cast<std::uint8_t>(h.cluster_bits);
    wire.l2_bits = static_cast<std::uint8_t>(h.l2_bits);
    wire.encryption = h.encryption;
    wire.l1_offset = h.l1_offset;
    std::vector<std::byte> out(kHeaderBytes);
    put(out, 0, wire);
    return out;
}

}  // namespace strata::block::qcow1
