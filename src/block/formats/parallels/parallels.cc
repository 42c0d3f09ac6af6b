// ParallelsNode: a table of places. While it is written the header says so; an image that was left
// like that is checked before it is written again.
#include "block/formats/parallels/parallels.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/archive/xml.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/table_node.h"
#include "block/formats/parallels/bundle.h"
#include "block/formats/parallels/bundle_node.h"
#include "block/formats/parallels/header.h"
#include "block/formats/raw/raw.h"
#include "block/wording.h"

namespace strata::block::parallels {
namespace {

class ParallelsNode final : public TableNode {
  public:
    ParallelsNode(NodePtr file, std::string name, bool read_only, const Header& header,
                  NodePtr below = nullptr)
        : TableNode(std::move(file), std::move(name), read_only), header_(header) {
        backing_ = std::move(below);
        end_ = std::max(end_, header.data_offset);
        configure(header.size, header.block, false);
    }
    [[nodiscard]] std::string_view format() const override { return "parallels"; }
    Task<FormatInfo> info() override {
        FormatInfo info;
        info.cluster_size = header_.block;
        info.dirty = header_.was_open();
        co_return info;
    }
    Task<CheckReport> check(Repair repair) override {
        STRATA_CO_TRY(CheckReport report, co_await TableNode::check(repair));
        report.image_end_offset = std::max(report.image_end_offset, header_.data_offset);
        const std::uint64_t end = file_->size();
        const std::uint64_t leaked =
            end > report.image_end_offset ? (end - report.image_end_offset) / header_.block : 0;
        report.leaks = leaked;
        if (leaked != 0 && repair != Repair::Nothing && report.corruptions == 0 &&
            !traits_.read_only) {
            STRATA_CO_TRY_VOID(co_await file_->resize(report.image_end_offset, Preallocation::Off));
            end_ = report.image_end_offset;
            report.leaks_fixed = std::exchange(report.leaks, 0);
        }
        if (header_.was_open()) {
            const bool mends = repair == Repair::All && report.clean() && !traits_.read_only;
            report.messages.push_back(worded("the image was not closed",
                                             mends ? "Repairing image was not closed correctly"
                                                   : "ERROR image was not closed correctly"));
            if (mends) {
                STRATA_CO_TRY_VOID(co_await mark(kClosed));
                ++report.corruptions_fixed;
            } else {
                ++report.corruptions;
            }
        }
        co_return report;
    }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t block = offset / header_.block, within = offset % header_.block;
        Place place{.length = std::min(length, header_.block - within)};
        STRATA_CO_TRY(const Le32 entry, co_await meta_.load<Le32>(kHeaderBytes + block * 4));
        if (entry != 0) {
            place.offset = entry * header_.unit();
            if (place.offset < header_.table_end()) {
                co_return broken_image(
                    "Parallels", name(),
                    fmt::format("block {} lies at {}, in the table", block, place.offset));
            }
            place.kind = Place::Kind::Data;
            place.offset += within;
        }
        co_return place;
    }
    Task<Reservation> reserve(std::uint64_t /*block*/, std::uint64_t count) override {
        const std::uint64_t old_end = end_;
        const std::uint64_t offset =
            take_space(count * header_.block, header_.extended ? header_.block : 512);
        if ((offset + count * header_.block) / header_.unit() > 0xFFFFFFFFU) {
            end_ = old_end;
            co_return Error{
                ErrorKind::Failed,
                fmt::format("Parallels image '{}': it cannot grow beyond {} bytes", name(), offset),
                ENOSPC};
        }
        co_return Reservation{
            .offset = offset, .blocks = count, .zeroed = file_->traits().zero_initialised};
    }
    Task<> publish(std::uint64_t block, const Reservation& reservation) override {
        for (std::uint64_t i = 0; i < reservation.blocks; ++i) {
            const std::uint64_t entry = (reservation.offset + i * header_.block) / header_.unit();
            STRATA_CO_TRY_VOID(co_await meta_.store(kHeaderBytes + (block + i) * 4,
                                                    Le32(static_cast<std::uint32_t>(entry)), 0));
        }
        co_return ok();
    }
    Task<> before_first_write() override {
        if (header_.was_open()) {
            STRATA_CO_TRY(const CheckReport report, co_await TableNode::check(Repair::Nothing));
            if (report.corruptions != 0) {
                co_return broken_image(
                    "Parallels", name(),
                    fmt::format("it was not closed and is damaged: {}; repair it first",
                                report.messages.front()));
            }
        }
        co_return co_await mark(kInUse);
    }
    Task<> after_last_flush() override { co_return co_await mark(kClosed); }

  private:
    // Bitmaps of an extension would tell nothing of what is written here: they go.
    Task<> mark(std::uint32_t state) {
        header_.in_use = state;
        header_.extension = 0;
        const auto bytes = serialise_header(header_);
        STRATA_CO_TRY_VOID(co_await meta_.store_bytes(0, bytes, 0));
        STRATA_CO_TRY_VOID(co_await file_->write(0, Buffers::of(bytes)));
        co_return co_await file_->flush();
    }
    Header header_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

/// One stretch of a bundle: its layers, the lowest one opened first.
Task<NodePtr> open_storage(Loop& loop, const OpenOptions& options, Storage storage) {
    NodePtr below;
    for (auto layer = storage.layers.rbegin(); layer != storage.layers.rend(); ++layer) {
        Reference reference{.kind = Reference::Kind::Extent,
                            .name = layer->name,
                            .format = {},
                            .referrer = options.path};
        STRATA_CO_TRY(NodePtr file, co_await open_reference(loop, options, std::move(reference)));
        if (layer->plain) {
            const std::uint64_t size = file->size() / 512 * 512;
            below = std::make_shared<raw::RawNode>(std::move(file), 0, size);
            continue;
        }
        STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
        STRATA_CO_TRY(const Header header, parse_header(bytes, layer->name));
        std::string name = file->name();
        below = std::make_shared<ParallelsNode>(std::move(file), std::move(name), true, header,
                                                std::move(below));
    }
    co_return below;
}

Task<NodePtr> open_bundle(NodePtr file, const OpenOptions& options) {
    if (!options.read_only) {
        co_return unsupported_image("Parallels", options.path,
                                    "bundles can be read only; open it read-only");
    }
    if (file->size() > archive::kMaxXml) {
        co_return broken_image("Parallels", options.path, "its description is too long");
    }
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, file->size()));
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    STRATA_CO_TRY(std::vector<Storage> storages, parse_bundle(text, options.path));
    std::vector<BundleNode::Part> parts;
    for (Storage& each : storages) {
        BundleNode::Part part{.start = each.start, .size = each.size};
        STRATA_CO_TRY(part.node, co_await open_storage(file->loop(), options, std::move(each)));
        parts.push_back(std::move(part));
    }
    co_return NodePtr(
        std::make_shared<BundleNode>(std::move(file), options.path, std::move(parts)));
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    // SAFETY: bytes as characters.
    if (is_bundle({reinterpret_cast<const char*>(bytes.data()), bytes.size()})) {
        co_return co_await open_bundle(std::move(file), options);
    }
    STRATA_CO_TRY(const Header header, parse_header(bytes, options.path));
    co_return NodePtr(
        std::make_shared<ParallelsNode>(std::move(file), options.path, options.read_only, header));
}

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size"},
    CreateOption{"cluster_size", CreateOption::Kind::Size, "Parallels image cluster size",
                 "1048576"},
};

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const std::uint64_t size,
                  disk_size_of(request, "parallels", kMaxTableBytes / 4 << 20));
    Header header;
    STRATA_CO_TRY(header.block, request.number("cluster_size", header.block));
    if (header.block < 512 || header.block % 512 != 0 || header.block > (256U << 20) ||
        divide_up(size, header.block) > kMaxTableBytes / 4) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("a cluster_size of {} bytes cannot be used for a disk of {}",
                                    header.block, size)};
    }
    header.size = size;
    header.entries = static_cast<std::uint32_t>(divide_up(size, header.block));
    header.cylinders =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(size / 512 / 16 / 32, 0xFFFFFFFF));
    header.in_use = kClosed;
    header.data_offset = round_up(header.table_end(), header.block);
    std::vector<std::byte> start(round_up(header.table_end(), 512));
    const auto bytes = serialise_header(header);
    std::copy(bytes.begin(), bytes.end(), start.begin());
    Pieces pieces;
    pieces.emplace_back(0, std::move(start));
    co_return co_await write_new_image(loop, request.path, std::move(pieces), header.data_offset);
}

constexpr FormatDriver kDriver{.name = "parallels",
                               .probe = &probe,
                               .open = &open,
                               .create = &create,
                               .create_options = kOptions};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::parallels
