// BochsNode: a catalog of extents, each with a bitmap of its sectors; read only.
#include "block/formats/bochs/bochs.h"

#include <algorithm>

#include "base/endian.h"
#include "block/formats/bochs/header.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"

namespace strata::block::bochs {
namespace {

class BochsNode final : public TableNode {
  public:
    BochsNode(NodePtr file, std::string name, const Header& header)
        : TableNode(std::move(file), std::move(name), true), header_(header) {
        configure(header.size, header.extent, false);
    }
    [[nodiscard]] std::string_view format() const override { return "bochs"; }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t extent = offset / header_.extent, within = offset % header_.extent;
        Place place{.length = std::min<std::uint64_t>(length, header_.extent - within)};
        STRATA_CO_TRY(const Le32 entry, co_await meta_.load<Le32>(header_.header + extent * 4));
        if (entry == kUnallocated) {
            co_return place;
        }
        const std::uint64_t bitmap = header_.data_offset() + entry * header_.stride();
        bool set = false;
        const std::uint64_t sectors = (within + place.length - 1) / 512 - within / 512 + 1;
        STRATA_CO_TRY(const std::uint64_t same,
                      co_await meta_.same_bits(bitmap, within / 512, sectors,
                                               MetaCache::BitOrder::LowFirst, set));
        place.length = std::min(place.length, (within / 512 + same) * 512 - within);
        if (set) {
            place.kind = Place::Kind::Data;
            place.offset = bitmap + header_.bitmap_bytes() + within;
        }
        co_return place;
    }

  private:
    const Header header_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    STRATA_CO_TRY(const Header header, parse_header(bytes, options.path));
    if (!options.read_only) {
        co_return unsupported_image("Bochs", options.path,
                                    "these images can be read only; open it read-only");
    }
    co_return NodePtr(std::make_shared<BochsNode>(std::move(file), options.path, header));
}

constexpr FormatDriver kDriver{.name = "bochs", .probe = &probe, .open = &open};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::bochs
