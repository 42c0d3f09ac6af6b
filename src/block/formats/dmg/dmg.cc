// DmgNode: chunks in the order of the disk; what no chunk has is zeros; read only.
#include "block/formats/dmg/dmg.h"

#include <algorithm>

#include "block/formats/common/inflate.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/dmg/chunk_table.h"
#include "block/formats/dmg/codecs.h"

namespace strata::block::dmg {
namespace {

constexpr std::uint64_t kUnit = 1U << 20;  ///< of status and checks; chunks have any size

Unpack unpack_of(ChunkType type) {
    switch (type) {
        case ChunkType::Adc:
            return &unpack_adc;
        case ChunkType::Bzip2:
            return &unpack_bzip2;
        case ChunkType::Lzfse:
            return &unpack_lzfse;
        case ChunkType::Lzma:
            return &unpack_lzma;
        default:
            return &inflate_zlib;
    }
}

class DmgNode final : public TableNode {
  public:
    DmgNode(NodePtr file, std::string name, std::vector<Chunk> chunks)
        : TableNode(std::move(file), std::move(name), true), chunks_(std::move(chunks)) {
        configure(chunks_.back().start + chunks_.back().length, kUnit, false);
        traits_.cluster_size = 0;
    }
    [[nodiscard]] std::string_view format() const override { return "dmg"; }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const auto next =
            std::upper_bound(chunks_.begin(), chunks_.end(), offset,
                             [](std::uint64_t at, const Chunk& each) { return at < each.start; });
        const std::uint64_t limit = next == chunks_.end() ? size() : next->start;
        Place place{.kind = Place::Kind::Zero, .length = std::min(length, limit - offset)};
        if (next == chunks_.begin() || offset >= std::prev(next)->start + std::prev(next)->length) {
            co_return place;
        }
        const Chunk& chunk = *std::prev(next);
        place.length = std::min(length, chunk.start + chunk.length - offset);
        if (chunk.type == ChunkType::Raw) {
            place.kind = Place::Kind::Data;
            place.offset = chunk.offset + (offset - chunk.start);
        } else if (chunk.type != ChunkType::Zero && chunk.type != ChunkType::Ignore) {
            place.kind = Place::Kind::Packed;
            place.offset = chunk.offset;
            place.packed = chunk.packed;
            place.start = chunk.start;
            place.bytes = chunk.length;
            place.unpack = unpack_of(chunk.type);
        }
        co_return place;
    }

  private:
    const std::vector<Chunk> chunks_;
};

unsigned probe(std::span<const std::byte> /*start*/, std::string_view path) {
    return path.ends_with(".dmg") ? 2 : 0;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    if (!options.read_only) {
        co_return unsupported_image("DMG", options.path,
                                    "these images can be read only; open it read-only");
    }
    STRATA_CO_TRY(const auto start, co_await read_bytes(*file, 0, 8));
    if (text_until_nul(start) == "encrcdsa") {
        co_return unsupported_image("DMG", options.path,
                                    "it is encrypted; decrypt it with hdiutil first");
    }
    // Some tools pad the file: the trailer is looked for a little before the end too.
    constexpr std::uint64_t kSearch = 1024;
    const std::uint64_t from = file->size() < kSearch ? 0 : file->size() - kSearch;
    STRATA_CO_TRY(const auto end,
                  co_await read_bytes(*file, from, std::min<std::uint64_t>(file->size(), kSearch)));
    std::span<const std::byte> trailer_bytes;
    for (std::size_t at = end.size() < kTrailerBytes ? 0 : end.size() - kTrailerBytes + 1;
         at-- > 0 && trailer_bytes.empty();) {
        const auto part = std::span(end).subspan(at);
        trailer_bytes = is_trailer(part) ? part : trailer_bytes;
    }
    STRATA_CO_TRY(const Trailer trailer, parse_trailer(trailer_bytes, file->size(), options.path));
    std::vector<Chunk> chunks;
    if (trailer.plist_length != 0) {
        STRATA_CO_TRY(const auto text,
                      co_await read_bytes(*file, trailer.plist_offset, trailer.plist_length));
        STRATA_CO_TRY(chunks, parse_plist(text, trailer, file->size(), options.path));
    } else {
        STRATA_CO_TRY(const auto fork,
                      co_await read_bytes(*file, trailer.resource_offset, trailer.resource_length));
        STRATA_CO_TRY(chunks, parse_resources(fork, trailer, file->size(), options.path));
    }
    co_return NodePtr(std::make_shared<DmgNode>(std::move(file), options.path, std::move(chunks)));
}

constexpr FormatDriver kDriver{.name = "dmg", .probe = &probe, .open = &open};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::dmg
