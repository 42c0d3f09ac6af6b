// CloopNode: compressed blocks one behind the other; read only.
#include "block/formats/cloop/cloop.h"

#include <algorithm>

#include "block/formats/cloop/header.h"
#include "block/formats/common/inflate.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"

namespace strata::block::cloop {
namespace {

class CloopNode final : public TableNode {
  public:
    CloopNode(NodePtr file, std::string name, const Header& header,
              std::vector<std::uint64_t> offsets)
        : TableNode(std::move(file), std::move(name), true),
          header_(header),
          offsets_(std::move(offsets)) {
        configure(header.size(), header.block, false);
    }
    [[nodiscard]] std::string_view format() const override { return "cloop"; }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t block = offset / header_.block, within = offset % header_.block;
        Place place{.kind = Place::Kind::Packed,
                    .length = std::min<std::uint64_t>(length, header_.block - within),
                    .offset = offsets_[block]};
        place.start = offset - within;
        place.bytes = header_.block;
        place.packed = offsets_[block + 1] - offsets_[block];
        place.unpack = &inflate_zlib;
        co_return place;
    }

  private:
    const Header header_;
    const std::vector<std::uint64_t> offsets_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 2 : 0;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    STRATA_CO_TRY(const Header header, parse_header(bytes, options.path));
    if (!options.read_only) {
        co_return unsupported_image("cloop", options.path,
                                    "these images can be read only; open it read-only");
    }
    if (!lies_within(kHeaderBytes, header.table_bytes(), file->size())) {
        co_return broken_image("cloop", options.path, "its offset table is cut off");
    }
    STRATA_CO_TRY(const auto table, co_await read_bytes(*file, kHeaderBytes, header.table_bytes()));
    STRATA_CO_TRY(auto offsets, parse_offsets(table, header, options.path));
    co_return NodePtr(
        std::make_shared<CloopNode>(std::move(file), options.path, header, std::move(offsets)));
}

constexpr FormatDriver kDriver{.name = "cloop", .probe = &probe, .open = &open};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::cloop
