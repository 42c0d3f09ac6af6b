// CowNode: a bitmap of sectors over a raw backing file; read only.
#include "block/formats/cow/cow.h"

#include <algorithm>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/cow/header.h"

namespace strata::block::cow {
namespace {

constexpr std::uint64_t kMaxBits = 65536;  ///< looked at for one answer

class CowNode final : public TableNode {
  public:
    CowNode(NodePtr file, std::string name, const Header& header, NodePtr backing)
        : TableNode(std::move(file), std::move(name), true), header_(header) {
        backing_ = std::move(backing);
        configure(header.size, header.sector, false);
    }
    [[nodiscard]] std::string_view format() const override { return "cow"; }
    Task<FormatInfo> info() override {
        FormatInfo info;
        info.backing_name = header_.backing;
        info.backing_format = "raw";
        co_return info;
    }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t sector = offset / header_.sector;
        const std::uint64_t sectors =
            std::min((offset + length - 1) / header_.sector - sector + 1, kMaxBits);
        bool set = false;
        STRATA_CO_TRY(const std::uint64_t same,
                      co_await meta_.same_bits(header_.bitmap_offset, sector, sectors,
                                               MetaCache::BitOrder::LowFirst, set));
        co_return Place{.kind = set ? Place::Kind::Data : Place::Kind::Hole,
                        .length = std::min(length, (sector + same) * header_.sector - offset),
                        .offset = header_.data_offset + offset};
    }

  private:
    const Header header_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kMaxHeader));
    STRATA_CO_TRY(Header header, parse_header(bytes, options.path));
    if (!options.read_only) {
        co_return unsupported_image("COW", options.path,
                                    "these images can be read only; open it read-only");
    }
    NodePtr backing;
    if (!header.backing.empty() && options.open_backing) {
        Reference reference{.kind = Reference::Kind::Backing,
                            .name = header.backing,
                            .format = "raw",
                            .referrer = options.path};
        STRATA_CO_TRY(backing,
                      co_await open_reference(file->loop(), options, std::move(reference)));
    }
    co_return NodePtr(
        std::make_shared<CowNode>(std::move(file), options.path, header, std::move(backing)));
}

constexpr FormatDriver kDriver{.name = "cow", .probe = &probe, .open = &open, .backing = true};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::cow
