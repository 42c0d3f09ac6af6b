// DmgChunkTable: trailer, property list, tables.
#include "block/formats/dmg/chunk_table.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::dmg {
namespace {

constexpr std::uint32_t kKoly = 0x6B6F6C79, kMish = 0x6D697368;
constexpr std::size_t kChunkBytes = 40, kMishBytes = 204;

struct WireChunk {
    Be32 type, comment;
    Be64 sector, sectors, offset, length;
};
static_assert(sizeof(WireChunk) == kChunkBytes);

constexpr std::array<std::int8_t, 256> make_base64() {
    std::array<std::int8_t, 256> table{};
    table.fill(-1);
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t i = 0; i < kDigits.size(); ++i) {
        table[static_cast<unsigned char>(kDigits[i])] = static_cast<std::int8_t>(i);
    }
    return table;
}
constexpr auto kBase64 = make_base64();

/// White space and what is no digit is skipped; ends at the padding.
std::vector<std::byte> decode_base64(std::string_view text) {
    std::vector<std::byte> out;
    out.reserve(text.size() / 4 * 3);
    std::uint32_t bits = 0;
    unsigned count = 0;
    for (const char c : text) {
        const std::int8_t digit = kBase64[static_cast<unsigned char>(c)];
        if (c == '=') {
            break;
        }
        if (digit < 0) {
            continue;
        }
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        count += 6;
        if (count >= 8) {
            count -= 8;
            out.push_back(static_cast<std::byte>(bits >> count));
        }
    }
    return out;
}

bool known(ChunkType type) {
    switch (type) {
        case ChunkType::Zero:
        case ChunkType::Raw:
        case ChunkType::Ignore:
        case ChunkType::Adc:
        case ChunkType::Zlib:
        case ChunkType::Bzip2:
        case ChunkType::Lzfse:
        case ChunkType::Lzma:
            return true;
        default:
            return false;
    }
}

/// The chunk that `wire` describes, checked.
Result<Chunk> take_chunk(const WireChunk& wire, std::uint64_t first_sector, std::uint64_t base,
                         std::uint64_t file_size, std::string_view name) {
    constexpr std::uint64_t kMaxSectors = 1ULL << 50;
    Chunk chunk;
    chunk.type = static_cast<ChunkType>(wire.type.value());
    if (!known(chunk.type)) {
        return unsupported_image(
            "DMG", name, fmt::format("chunks of the type {:#x} are unknown", wire.type.value()));
    }
    if (wire.sector > kMaxSectors || first_sector > kMaxSectors || wire.sectors > kMaxSectors) {
        return broken_image("DMG", name,
                            fmt::format("a chunk of {} sectors at {} cannot be",
                                        wire.sectors.value(), wire.sector.value()));
    }
    chunk.start = (first_sector + wire.sector) * 512;
    chunk.length = wire.sectors * 512;
    if (chunk.type == ChunkType::Zero || chunk.type == ChunkType::Ignore) {
        return chunk;
    }
    chunk.offset = base + wire.offset;
    chunk.packed = wire.length;
    const bool raw = chunk.type == ChunkType::Raw;
    if (base > file_size || wire.offset > file_size ||
        !lies_within(chunk.offset, chunk.packed, file_size)) {
        return broken_image("DMG", name,
                            fmt::format("a chunk of {} bytes at {} lies outside the file",
                                        chunk.packed, wire.offset.value()));
    }
    if (raw ? chunk.packed < chunk.length
            : chunk.packed > kMaxChunkBytes || chunk.length > kMaxChunkBytes) {
        return broken_image("DMG", name,
                            fmt::format("a chunk of {} bytes cannot be {} bytes of the disk",
                                        chunk.packed, chunk.length));
    }
    return chunk;
}

Result<> take_table(std::span<const std::byte> table, const Trailer& trailer,
                    std::uint64_t file_size, std::string_view name, std::vector<Chunk>& out) {
    if (table.size() < kMishBytes || get<Be32>(table, 0) != kMish) {
        return ok();  // another kind of resource
    }
    const std::uint64_t first_sector = get<Be64>(table, 8), data_offset = get<Be64>(table, 24);
    const std::uint32_t count = get<Be32>(table, 200);
    if (count > (table.size() - kMishBytes) / kChunkBytes) {
        return broken_image("DMG", name, fmt::format("a table of {} chunks is cut off", count));
    }
    if (data_offset > file_size) {
        return broken_image("DMG", name,
                            fmt::format("a table's data at {} lies outside the file", data_offset));
    }
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto wire = get<WireChunk>(table, kMishBytes + i * kChunkBytes);
        const auto type = static_cast<ChunkType>(wire.type.value());
        if (type == ChunkType::Comment || type == ChunkType::End || wire.sectors == 0) {
            continue;
        }
        out.push_back(STRATA_TRY(
            take_chunk(wire, first_sector, trailer.data_offset + data_offset, file_size, name)));
    }
    return ok();
}

Result<std::vector<Chunk>> in_order(std::vector<Chunk> chunks, std::string_view name) {
    if (chunks.empty()) {
        return broken_image("DMG", name, "it has no block table");
    }
    std::sort(chunks.begin(), chunks.end(),
              [](const Chunk& a, const Chunk& b) { return a.start < b.start; });
    for (std::size_t i = 1; i < chunks.size(); ++i) {
        if (chunks[i - 1].start + chunks[i - 1].length > chunks[i].start) {
            return broken_image("DMG", name,
                                fmt::format("two chunks claim the byte {}", chunks[i].start));
        }
    }
    return chunks;
}

}  // namespace

bool is_trailer(std::span<const std::byte> bytes) {
    return bytes.size() >= kTrailerBytes && get<Be32>(bytes, 0) == kKoly;
}

Result<Trailer> parse_trailer(std::span<const std::byte> bytes, std::uint64_t file_size,
                              std::string_view name) {
    if (!is_trailer(bytes)) {
        return broken_image("DMG", name,
                            "it has no trailer: this is no DMG image, or it is cut off");
    }
    Trailer t;
    t.data_offset = get<Be64>(bytes, 0x18);
    t.resource_offset = get<Be64>(bytes, 0x28);
    t.resource_length = get<Be64>(bytes, 0x30);
    t.plist_offset = get<Be64>(bytes, 0xD8);
    t.plist_length = get<Be64>(bytes, 0xE0);
    if (t.data_offset > file_size ||
        !lies_within(t.resource_offset, t.resource_length, file_size) ||
        !lies_within(t.plist_offset, t.plist_length, file_size) || t.plist_length > kMaxPlist ||
        t.resource_length > kMaxPlist) {
        return broken_image("DMG", name,
                            "its trailer speaks of what lies outside the file, or is too large");
    }
    return t;
}

Result<std::vector<Chunk>> parse_plist(std::span<const std::byte> bytes, const Trailer& trailer,
                                       std::uint64_t file_size, std::string_view name) {
    // SAFETY: bytes as characters.
    std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    constexpr std::string_view kKey = "<key>blkx</key>", kOpen = "<data>", kClose = "</data>",
                               kEnd = "</array>";
    const std::size_t key = text.find(kKey);
    if (key == std::string_view::npos) {
        return broken_image("DMG", name, "its property list has no block tables");
    }
    text.remove_prefix(key);
    text = text.substr(0, text.find(kEnd));
    std::vector<Chunk> chunks;
    while (true) {
        const std::size_t open = text.find(kOpen);
        const std::size_t close = open == std::string_view::npos ? open : text.find(kClose, open);
        if (close == std::string_view::npos) {
            return in_order(std::move(chunks), name);
        }
        const std::size_t begin = open + kOpen.size();
        STRATA_TRY_VOID(take_table(decode_base64(text.substr(begin, close - begin)), trailer,
                                   file_size, name, chunks));
        text.remove_prefix(close + kClose.size());
    }
}

Result<std::vector<Chunk>> parse_resources(std::span<const std::byte> fork, const Trailer& trailer,
                                           std::uint64_t file_size, std::string_view name) {
    if (fork.size() < 16 || get<Be32>(fork, 0) > fork.size() ||
        get<Be32>(fork, 8) > fork.size() - get<Be32>(fork, 0)) {
        return broken_image("DMG", name, "its resource fork is broken");
    }
    std::span<const std::byte> data = fork.subspan(get<Be32>(fork, 0), get<Be32>(fork, 8));
    std::vector<Chunk> chunks;
    while (data.size() > 4) {
        const std::uint32_t length = get<Be32>(data, 0);
        if (length == 0 || length > data.size() - 4) {
            return broken_image("DMG", name,
                                fmt::format("a resource of {} bytes is cut off", length));
        }
        STRATA_TRY_VOID(take_table(data.subspan(4, length), trailer, file_size, name, chunks));
        data = data.subspan(4 + std::size_t{length});
    }
    return in_order(std::move(chunks), name);
}

}  // namespace strata::block::dmg
