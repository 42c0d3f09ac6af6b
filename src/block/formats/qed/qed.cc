// QedNode: two levels of tables; read only.
#include "block/formats/qed/qed.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/qed/header.h"

namespace strata::block::qed {
namespace {

constexpr std::uint64_t kMaxOffset = 1ULL << 60;

class QedNode final : public TableNode {
  public:
    QedNode(NodePtr file, std::string name, const Header& header, NodePtr backing,
            std::string backing_name)
        : TableNode(std::move(file), std::move(name), true),
          header_(header),
          backing_name_(std::move(backing_name)) {
        backing_ = std::move(backing);
        configure(header.size, header.cluster, false);
        past_end_ = PastEnd::Begun;
    }
    [[nodiscard]] std::string_view format() const override { return "qed"; }
    Task<FormatInfo> info() override {
        FormatInfo info;
        info.cluster_size = header_.cluster;
        info.dirty = (header_.features & kNeedCheck) != 0;
        info.backing_name = backing_name_;
        info.backing_format = (header_.features & kBackingIsRaw) != 0 ? "raw" : "";
        co_return info;
    }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t cluster = offset / header_.cluster, within = offset % header_.cluster;
        STRATA_CO_TRY(
            const Le64 table,
            co_await meta_.load<Le64>(header_.l1_offset + cluster / header_.table_entries() * 8));
        if (table == 0) {
            const std::uint64_t span = header_.cluster * header_.table_entries();
            co_return Place{.length = std::min(length, span - offset % span)};
        }
        Place place{.length = std::min<std::uint64_t>(length, header_.cluster - within)};
        if (table % header_.cluster != 0 || table >= kMaxOffset) {
            co_return broken_image("QED", name(), fmt::format("a table lies at {}", table.value()));
        }
        const std::uint64_t at = table + cluster % header_.table_entries() * 8;
        if (at >= readable_end()) {
            place.kind = Place::Kind::Lost;
            place.offset = at;
            co_return place;
        }
        STRATA_CO_TRY(const Le64 entry, co_await meta_.load<Le64>(at));
        if (entry <= 1) {
            place.kind = entry == 1 ? Place::Kind::Zero : Place::Kind::Hole;
            co_return place;
        }
        if (entry % header_.cluster != 0 || entry >= kMaxOffset) {
            co_return broken_image("QED", name(),
                                   fmt::format("cluster {} lies at {}", cluster, entry.value()));
        }
        place.kind = Place::Kind::Data;
        place.offset = entry + within;
        co_return place;
    }

  private:
    const Header header_;
    const std::string backing_name_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    STRATA_CO_TRY(const Header header, parse_header(bytes, options.path));
    if (!lies_within(header.l1_offset, header.table_bytes(), round_up(file->size(), 512))) {
        co_return broken_image(
            "QED", options.path,
            fmt::format(
                "its L1 table of {} bytes at {} lies past the end of the file at {}: it was "
                "cut short; copy the file again",
                header.table_bytes(), header.l1_offset, file->size()),
            "QED table offset is invalid");
    }
    if (!options.read_only) {
        co_return unsupported_image("QED", options.path,
                                    "these images can be read only; open it read-only");
    }
    NodePtr backing;
    std::string backing_name;
    if ((header.features & kBackingFile) != 0) {
        STRATA_CO_TRY(const auto name,
                      co_await read_bytes(*file, header.backing_offset, header.backing_bytes));
        backing_name = text_until_nul(name);
        if (options.open_backing) {
            Reference reference{.kind = Reference::Kind::Backing,
                                .name = backing_name,
                                .format = {},
                                .referrer = options.path};
            reference.format = (header.features & kBackingIsRaw) != 0
                                   ? "raw"
                                   : std::string(options.extra_of("backing_format"));
            STRATA_CO_TRY(backing,
                          co_await open_reference(file->loop(), options, std::move(reference)));
        }
    }
    co_return NodePtr(std::make_shared<QedNode>(std::move(file), options.path, header,
                                                std::move(backing), std::move(backing_name)));
}

constexpr FormatDriver kDriver{.name = "qed", .probe = &probe, .open = &open, .backing = true};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::qed
