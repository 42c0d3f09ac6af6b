// VdiHeader: field by field.
#include "block/formats/vdi/header.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::block::vdi {
namespace {

struct Wire {
    std::array<char, 64> text{};
    Le32 signature, version;
    Le32 header_size, type, flags;
    std::array<char, 256> comment{};
    Le32 offset_map, offset_data;
    Le32 cylinders, heads, sectors, sector_size, unused;
    Le64 size;
    Le32 block, extra, blocks, allocated;
    RawUuid uuid{}, modification{}, link{}, parent{};
    std::array<std::byte, 56> unused2{};
};
static_assert(sizeof(Wire) == kHeaderBytes);
/// The largest map of blocks of a MiB, as QEMU's tools have it.
constexpr std::uint64_t kMaxBlocks = 0x1FFFFF80, kUsualBlock = 1U << 20,
                        kUsualMaxSize = kMaxBlocks * kUsualBlock;
constexpr std::uint32_t kSignature = 0xBEDA107F, kVersion = 0x00010001;
constexpr std::string_view kText = "<<< Oracle VM VirtualBox Disk Image >>>\n";

Result<> check(const Header& h, std::uint32_t type, std::string_view name) {
    if (type < 1 || type > 4) {
        return unsupported_image("VDI", name, fmt::format("image type {} is unknown", type));
    }
    if (!std::has_single_bit(h.block) || h.block < 4096 || h.block > (256U << 20) ||
        h.extra > (1U << 20) || h.extra % 512 != 0) {
        return broken_image(
            "VDI", name, fmt::format("blocks of {} and {} more bytes cannot be", h.block, h.extra),
            fmt::format("unsupported VDI image (block size {} is not {})", h.block, kUsualBlock));
    }
    if (h.blocks > kMaxBlocks || h.blocks < divide_up(h.size, h.block)) {
        return broken_image(
            "VDI", name,
            fmt::format("{} blocks of {} bytes do not fit a disk of {}", h.blocks, h.block, h.size),
            h.size > kUsualMaxSize
                ? fmt::format("Unsupported VDI image size (size is {:#x}, max supported is {:#x})",
                              h.size, kUsualMaxSize)
            : h.blocks > kMaxBlocks
                ? fmt::format("unsupported VDI image (too many blocks {}, max is {})", h.blocks,
                              kMaxBlocks)
                : fmt::format("unsupported VDI image (disk size {}, image bitmap has room for {})",
                              h.size, std::uint64_t{h.blocks} * h.block));
    }
    if (h.offset_map % 512 != 0 || h.offset_data % 512 != 0 || h.offset_map < 512 ||
        (h.allocated != 0 && h.map_overlaps_data())) {
        return broken_image(
            "VDI", name,
            fmt::format("its map at {} and its data at {} cannot be", h.offset_map, h.offset_data));
    }
    if (h.allocated > h.blocks) {
        return broken_image(
            "VDI", name, fmt::format("it counts {} allocated blocks of {}", h.allocated, h.blocks));
    }
    return ok();
}

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= kHeaderBytes && get<Le32>(bytes, 64) == kSignature;
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name) {
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || read->signature != kSignature) {
        return broken_image("VDI", name, "this is no VDI image");
    }
    const Wire& wire = *read;
    if (wire.version != kVersion) {
        return unsupported_image(
            "VDI", name,
            fmt::format("version {}.{} is unknown", wire.version >> 16, wire.version & 0xFFFF));
    }
    if (wire.sector_size != 512) {
        return unsupported_image("VDI", name,
                                 fmt::format("sectors of {} bytes", wire.sector_size.value()));
    }
    Header h;
    h.type = static_cast<Type>(wire.type.value());
    h.offset_map = wire.offset_map;
    h.offset_data = wire.offset_data;
    // VirtualBox writes sizes that are no multiple of a sector: the last one counts whole.
    if (wire.size > (1ULL << 57)) {
        return broken_image("VDI", name,
                            fmt::format("a disk of {} bytes cannot be", wire.size.value()));
    }
    h.size = round_up(wire.size, 512);
    h.block = wire.block;
    h.extra = wire.extra;
    h.blocks = wire.blocks;
    h.allocated = wire.allocated;
    h.uuid = wire.uuid;
    h.modification = wire.modification;
    h.link = wire.link;
    h.parent = wire.parent;
    STRATA_TRY_VOID(check(h, wire.type, name));
    return h;
}

std::vector<std::byte> serialise_header(const Header& h) {
    Wire wire{};
    std::copy(kText.begin(), kText.end(), wire.text.begin());
    wire.signature = kSignature;
    wire.version = kVersion;
    wire.header_size = 400U;
    wire.type = static_cast<std::uint32_t>(h.type);
    wire.offset_map = static_cast<std::uint32_t>(h.offset_map);
    wire.offset_data = static_cast<std::uint32_t>(h.offset_data);
    wire.sector_size = 512U;
    wire.size = h.size;
    wire.block = h.block;
    wire.extra = h.extra;
    wire.blocks = h.blocks;
    wire.allocated = h.allocated;
    wire.uuid = h.uuid;
    wire.modification = h.modification;
    wire.link = h.link;
    wire.parent = h.parent;
    std::vector<std::byte> out(kHeaderBytes);
    put(out, 0, wire);
    return out;
}

}  // namespace strata::block::vdi
