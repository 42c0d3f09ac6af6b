// VdiNode: a map of block indexes. A new block takes the index after the last; the count of
// allocated blocks reaches the file before the map that refers to them, so that no other writer
// gives the same index away again.
#include "block/formats/vdi/vdi.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/slot_packer.h"
#include "block/formats/common/table_node.h"
#include "block/formats/vdi/header.h"

namespace strata::block::vdi {
namespace {

class VdiNode final : public TableNode, public Compactable, private SlotTable {
  public:
    VdiNode(NodePtr file, std::string name, bool read_only, const Header& header, NodePtr backing)
        : TableNode(std::move(file), std::move(name), read_only),
          header_(header),
          old_end_(file_->size()) {
        backing_ = std::move(backing);
        configure(header.size, header.block, true);
    }
    [[nodiscard]] std::string_view format() const override { return "vdi"; }
    [[nodiscard]] const Header& header() const { return header_; }
    Task<FormatInfo> info() override {
        FormatInfo info;
        info.cluster_size = header_.block;
        co_return info;
    }
    [[nodiscard]] bool finds_zeroes() const override { return header_.type != Type::Static; }
    Task<CompactReport> pack_file(CompactWatch watch) override {
        STRATA_CO_TRY_VOID(check_range(0, 0, true));
        if (header_.type == Type::Static) {
            co_return CompactReport{};  // its blocks are there to stay
        }
        SlotPacker packer(*this, *this, std::move(watch));
        co_return co_await packer.run();
    }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t block = offset / header_.block, within = offset % header_.block;
        Place place{.length = std::min<std::uint64_t>(length, header_.block - within)};
        STRATA_CO_TRY(const Le32 entry, co_await meta_.load<Le32>(entry_offset(block)));
        if (entry == kFree || entry == kZero) {
            place.kind = entry == kZero ? Place::Kind::Zero : Place::Kind::Hole;
            co_return place;
        }
        if (entry >= header_.blocks) {
            co_return broken_image("VDI", name(),
                                   fmt::format("block {} lies at index {} of {}", block,
                                               entry.value(), header_.blocks));
        }
        place.kind = Place::Kind::Data;
        place.offset = data_offset(entry) + within;
        place.look_below = header_.type == Type::Static;
        co_return place;
    }
    Task<Reservation> reserve(std::uint64_t /*block*/, std::uint64_t count) override {
        if (!gaps_.empty()) {
            const std::uint32_t index = gaps_.back();
            gaps_.pop_back();
            co_return Reservation{.offset = data_offset(index), .blocks = 1, .zeroed = false};
        }
        count = std::min<std::uint64_t>(header_.extra == 0 ? count : 1,
                                        header_.blocks - header_.allocated);
        if (count == 0) {
            co_return Error{ErrorKind::Failed,
                            fmt::format("VDI image '{}': all of its {} blocks are taken", name(),
                                        header_.blocks),
                            ENOSPC};
        }
        const Reservation reservation{.offset = data_offset(header_.allocated),
                                      .blocks = count,
                                      .zeroed = file_->traits().zero_initialised &&
                                                data_offset(header_.allocated) >= old_end_};
        header_.allocated += static_cast<std::uint32_t>(count);
        end_ = std::max(end_, reservation.offset + count * header_.block);
        co_return reservation;
    }
    Task<> publish(std::uint64_t block, const Reservation& reservation) override {
        const auto index = static_cast<std::uint32_t>(
            (reservation.offset - header_.extra - header_.offset_data) / header_.stride());
        STRATA_CO_TRY_VOID(co_await meta_.store(kAllocatedField, Le32(header_.allocated), 0));
        for (std::uint32_t i = 0; i < reservation.blocks; ++i) {
            STRATA_CO_TRY_VOID(co_await meta_.store(entry_offset(block + i), Le32(index + i), 1));
        }
        co_return ok();
    }
    Task<bool> publish_zero(std::uint64_t block) override {
        STRATA_CO_TRY_VOID(co_await meta_.store(entry_offset(block), Le32(kZero), 1));
        co_return true;
    }
    // The header's count may lag behind the map after a crash of another program, and be ahead of
    // it after one of ours: it goes by the map. Places that nobody has below it are used first.
    Task<> before_first_write() override { co_return co_await recount(); }

  private:
    Task<> recount() {
        constexpr std::uint64_t kPart = 64U << 10;
        std::vector<bool> used;
        for (std::uint64_t at = 0; at < header_.blocks * 4ULL; at += kPart) {
            STRATA_CO_TRY(
                const auto bytes,
                co_await read_bytes(*file_, header_.offset_map + at,
                                    std::min<std::uint64_t>(kPart, header_.blocks * 4ULL - at)));
            for (std::size_t i = 0; i < bytes.size(); i += 4) {
                const std::uint32_t entry = get<Le32>(bytes, i);
                if (entry < header_.blocks) {
                    used.resize(std::max<std::size_t>(used.size(), entry + std::size_t{1}));
                    used[entry] = true;
                }
            }
        }
        header_.allocated = static_cast<std::uint32_t>(used.size());
        gaps_.clear();
        for (std::uint32_t index = header_.allocated; index-- != 0;) {
            if (!used[index]) {
                gaps_.push_back(index);
            }
        }
        co_return ok();
    }
    Task<SlotLayout> slot_layout() override {
        co_return SlotLayout{.bytes = header_.stride(),
                             .base = header_.offset_data,
                             .step = header_.stride(),
                             .blocks = header_.blocks,
                             .fixed = {{0, header_.offset_data}}};
    }
    Task<std::optional<std::uint64_t>> slot_of(std::uint64_t block) override {
        STRATA_CO_TRY(const Place place, co_await find(block * header_.block, 1));
        co_return place.kind == Place::Kind::Data ? std::optional(place.offset - header_.extra)
                                                  : std::nullopt;
    }
    Task<bool> expendable(std::uint64_t slot) override {
        return reads_as_zeros(*file_, slot + header_.extra, header_.block);
    }
    Task<> set_slot(std::uint64_t block, std::uint64_t slot) override {
        // As VirtualBox has it: what has nothing below is free rather than zero.
        const std::uint32_t none = header_.differencing() ? kZero : kFree;
        const auto index =
            static_cast<std::uint32_t>((slot - header_.offset_data) / header_.stride());
        co_return co_await meta_.store(entry_offset(block), Le32(slot == 0 ? none : index), 1);
    }
    [[nodiscard]] std::uint64_t slot_head() const override { return 0; }  // `extra` goes along
    Task<> copy_slot_head(std::uint64_t /*from*/, std::uint64_t /*to*/) override { co_return ok(); }
    Task<> cut_file(std::uint64_t end) override {
        STRATA_CO_TRY_VOID(co_await recount());
        STRATA_CO_TRY_VOID(co_await meta_.store(kAllocatedField, Le32(header_.allocated), 0));
        co_return co_await end_file(end);
    }
    [[nodiscard]] std::uint64_t entry_offset(std::uint64_t block) const {
        return header_.offset_map + block * 4;
    }
    [[nodiscard]] std::uint64_t data_offset(std::uint64_t index) const {
        return header_.offset_data + index * header_.stride() + header_.extra;
    }
    Header header_;
    std::vector<std::uint32_t> gaps_;  ///< places below the header's count that no block has
    const std::uint64_t old_end_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

Task<NodePtr> open_parent(Loop& loop, const OpenOptions& options, const Header& header) {
    const std::string_view parent = options.extra_of("parent");
    if (parent.empty()) {
        co_return unsupported_image(
            "VDI", options.path,
            fmt::format("it is a differencing image over the image {}; name that with parent=FILE",
                        format_uuid(header.link, true)));
    }
    Reference reference{.kind = Reference::Kind::Backing,
                        .name = std::string(parent),
                        .format = "vdi",
                        .referrer = options.path};
    STRATA_CO_TRY(NodePtr node, co_await open_reference(loop, options, std::move(reference)));
    const auto* below = dynamic_cast<const VdiNode*>(node.get());
    if (below == nullptr || below->header().uuid != header.link) {
        co_return broken_image("VDI", options.path,
                               fmt::format("'{}' is not its parent: it lies over the image {}",
                                           parent, format_uuid(header.link, true)));
    }
    co_return node;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    STRATA_CO_TRY(const Header header, parse_header(bytes, options.path));
    if (header.map_overlaps_data() && !options.read_only) {
        co_return broken_image("VDI", options.path,
                               fmt::format("its map at {} reaches into its data at {}",
                                           header.offset_map, header.offset_data));
    }
    NodePtr backing;
    if (header.differencing() && options.open_backing) {
        STRATA_CO_TRY(backing, co_await open_parent(file->loop(), options, header));
    }
    co_return NodePtr(std::make_shared<VdiNode>(std::move(file), options.path, options.read_only,
                                                header, std::move(backing)));
}

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size"},
    CreateOption{"static", CreateOption::Kind::Flag, "VDI static (pre-allocated) image", "off"},
    CreateOption{"preallocation", CreateOption::Kind::Text,
                 "Preallocation mode (allowed values: off, metadata)", "off"},
};
constexpr std::array<std::string_view, 2> kPreallocation = {"off", "metadata"};

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const std::uint64_t size,
                  disk_size_of(request, "vdi", kMaxMapBytes / 4 * kDefaultBlock));
    STRATA_CO_TRY(bool fixed, request.flag("static", false));
    STRATA_CO_TRY(const std::string_view preallocation,
                  choice(request, "preallocation", kPreallocation));
    fixed = fixed || preallocation == "metadata";
    Header header;
    header.type = fixed ? Type::Static : Type::Dynamic;
    header.size = size;
    header.blocks = static_cast<std::uint32_t>(divide_up(size, header.block));
    header.allocated = fixed ? header.blocks : 0;
    header.offset_data = header.offset_map + round_up(header.blocks * 4ULL, 512);
    header.uuid = random_uuid();
    header.modification = random_uuid();
    std::vector<std::byte> map(round_up(header.blocks * 4ULL, 512));
    for (std::uint32_t i = 0; i < header.blocks; ++i) {
        put(map, i * std::size_t{4}, Le32(fixed ? i : kFree));
    }
    Pieces pieces;
    pieces.emplace_back(0, serialise_header(header));
    pieces.emplace_back(header.offset_map, std::move(map));
    const std::uint64_t length = header.offset_data + header.allocated * header.stride();
    co_return co_await write_new_image(loop, request.path, std::move(pieces), length);
}

constexpr FormatDriver kDriver{.name = "vdi",
                               .probe = &probe,
                               .open = &open,
                               .create = &create,
                               .create_options = kOptions,
                               .backing = false};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::vdi
