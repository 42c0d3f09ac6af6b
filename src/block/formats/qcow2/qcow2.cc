// Qcow2Node: opening, information, closing.
#include "block/formats/qcow2/qcow2.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/log.h"
#include "block/formats/qcow2/create.h"
#include "block/protocols/file/file_node.h"

namespace strata::block::qcow2 {
namespace {

Result<> check_supported(const Header& h, const OpenOptions& options) {
    const auto lacking = [&](std::string_view what) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("qcow2 image '{}' {}", options.path, what)};
    };
    if (!options.read_only && !options.for_check && (h.incompatible & kCorrupt) != 0) {
        return lacking(
            "is marked corrupt: open it read-only, or repair it with 'qemu-img check -r all'");
    }
    return ok();
}

Task<NodePtr> open_backing(Loop& loop, const Header& h, const OpenOptions& options) {
    if (h.backing.empty() || !options.open_backing) {
        co_return NodePtr();
    }
    Reference reference{.kind = Reference::Kind::Backing,
                        .name = h.backing,
                        .format = h.backing_format,
                        .referrer = {}};
    co_return co_await open_reference(loop, options, std::move(reference));
}

Task<NodePtr> open_data(const NodePtr& file, const Header& h, const OpenOptions& options) {
    if ((h.incompatible & kExternalData) == 0 || !options.open_data) {
        co_return file;
    }
    if (NodeTree tree = NodeTree(options.extra).take_child("data-file"); !tree.empty()) {
        OpenOptions data = options.below();  // whoever opens the image says where its data are
        if (!tree.has("driver")) {
            tree.set("driver", "file");
        }
        data.tree = std::move(tree);
        co_return co_await open_tree(file->loop(), std::move(data));
    }
    if (h.data_file.empty()) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("qcow2 image '{}' keeps its data in another file and does not name it",
                        options.path)};
    }
    Reference reference{
        .kind = Reference::Kind::Data, .name = h.data_file, .format = "", .referrer = {}};
    co_return co_await open_reference(file->loop(), options, std::move(reference),
                                      options.read_only);
}

/// The first cluster, or what a file too short for one has: 64 KiB at least.
Task<std::vector<std::byte>> first_cluster(Node& file) {
    constexpr std::uint64_t kFirst = 1U << 16, kMost = 1U << 21;
    std::vector<std::byte> start(std::min(file.size(), kFirst));
    STRATA_CO_TRY_VOID(co_await file.read(0, Buffers(std::span(start))));
    Be32 bits = 0U;
    if (start.size() == kFirst) {
        std::memcpy(&bits, start.data() + kClusterBitsField, sizeof bits);
        if (bits > 16 && file.size() > kFirst) {
            start.resize(std::min(file.size(), kMost));
            STRATA_CO_TRY_VOID(
                co_await file.read(kFirst, Buffers(std::span(start).subspan(kFirst))));
        }
    }
    co_return std::move(start);
}

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    constexpr std::array kStart{std::byte{'Q'}, std::byte{'F'}, std::byte{'I'}, std::byte{0xFB}};
    const bool magic = start.size() >= 8 && std::equal(kStart.begin(), kStart.end(), start.begin());
    return magic && (start[7] == std::byte{2} || start[7] == std::byte{3}) ? 100 : 0;
}

}  // namespace

Qcow2Node::Qcow2Node(NodePtr file, NodePtr data, NodePtr backing,
                     std::unique_ptr<Metadata> metadata, const OpenOptions& options)
    : Node(file->loop(), file->name()),
      file_(std::move(file)),
      data_(std::move(data)),
      backing_(std::move(backing)),
      metadata_(std::move(metadata)),
      bitmaps_(*file_, *metadata_),
      partial_(loop()),
      size_(metadata_->header().size),
      gate_(loop()),
      claims_change_(loop()) {
    traits_ = data_->traits();
    traits_.read_only = options.read_only;
    traits_.cluster_size = header().cluster();
    traits_.discard_alignment = static_cast<std::uint32_t>(header().cluster());
    traits_.discard = options.discard && !options.read_only;
    traits_.fast_zeroes = header().version >= 3;
    traits_.zero_initialised = true;
    traits_.compressed_writes = data_ == file_;
    traits_.sparse = true;
}

Qcow2Node::~Qcow2Node() = default;

Task<NodePtr> Qcow2Node::open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const std::vector<std::byte> start, co_await first_cluster(*file));
    STRATA_CO_TRY(Header header, parse_header(start, options.path, options.for_check));
    STRATA_CO_TRY_VOID(check_supported(header, options));
    if (!options.for_check && header.snapshots != 0) {  // a check tells what is wrong with it
        STRATA_CO_TRY_VOID(co_await read_snapshots(*file, header, SnapshotReading::FaultyL1));
    }
    STRATA_CO_TRY(NodePtr backing, co_await open_backing(file->loop(), header, options));
    STRATA_CO_TRY(NodePtr data, co_await open_data(file, header, options));
    const std::uint64_t known = kRawExternalData | (header.has_bitmaps ? kBitmaps : 0);
    if (!options.read_only && (header.autoclear & ~known) != 0) {
        // What these bits vouch for is not kept up here.
        const Be64 kept = header.autoclear & known;
        header.autoclear = kept;
        STRATA_CO_TRY_VOID(
            co_await file->write(kAutoclearField, Buffers::of(std::as_bytes(std::span(&kept, 1)))));
    }
    const bool stale =
        !options.read_only && !options.for_check && (header.incompatible & kDirty) != 0;
    STRATA_CO_TRY(auto metadata, co_await Metadata::load(*file, std::move(header), options.discard,
                                                         options.for_check));
    std::shared_ptr<Qcow2Node> node(new Qcow2Node(
        std::move(file), std::move(data), std::move(backing), std::move(metadata), options));
    if (node->header().encryption != 0) {
        STRATA_CO_TRY_VOID(co_await node->unlock(
            std::string(options.extra_of("encrypt.key-secret")),
            options.open_data && !options.for_check && options.extra_of("unlock") != "optional"));
    }
    if (stale) {
        log::info("an image was not closed and is repaired image='{}'", options.path);
        STRATA_CO_TRY(const CheckReport report, co_await node->check(Repair::All));
        if (!report.clean()) {
            co_return Error{
                ErrorKind::Failed,
                fmt::format(
                    "qcow2 image '{}' was not closed, and its refcounts cannot all be repaired",
                    options.path),
                EIO};
        }
    }
    const Result<> bitmaps = co_await node->bitmaps_.load();
    if (!bitmaps.ok() && !options.read_only && !options.for_check) {
        co_return bitmaps.error();
    }
    if (auto* grows = dynamic_cast<FileNode*>(node->file_.get());
        grows != nullptr && !options.read_only && !options.for_check) {
        grows->grow_ahead();
    }
    co_return NodePtr(std::move(node));
}

Result<> Qcow2Node::check_change(std::uint64_t offset, std::uint64_t length) const {
    STRATA_TRY_VOID(check_range(offset, length, true));
    if (data_ == file_ && (header().incompatible & kExternalData) != 0) {
        return Error{ErrorKind::WrongState,
                     fmt::format("'{}' was opened without its data file", name()), EROFS};
    }
    return ok();
}

std::vector<Node*> Qcow2Node::children() const {
    std::vector<Node*> all = Node::children();
    if (data_ != file_) {
        all.push_back(data_.get());
    }
    return all;
}

Task<> Qcow2Node::flush() {
    if (traits_.read_only) {
        co_return ok();
    }
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    if (data_ != file_) {
        STRATA_CO_TRY_VOID(co_await data_->flush());
    }
    co_return co_await metadata_->write_back();
}

Task<> Qcow2Node::close() {
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    if (!traits_.read_only && !std::exchange(closed_, true)) {
        if (data_ != file_) {
            STRATA_CO_TRY_VOID(co_await data_->flush());
        }
        if (bitmaps_.dirty()) {
            STRATA_CO_TRY_VOID(co_await store_bitmaps());
        }
        STRATA_CO_TRY_VOID(co_await metadata_->settle());
    }
    for (Node* each : children()) {
        STRATA_CO_TRY_VOID(co_await each->close());
    }
    co_return ok();
}

Task<> Qcow2Node::change_backing(NodePtr backing, std::string name, std::string format) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    Header changed = header();
    changed.backing = std::move(name);
    changed.backing_format = changed.backing.empty() ? "" : std::move(format);
    STRATA_CO_TRY_VOID(serialise_header(changed));
    STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    metadata_->header() = std::move(changed);
    STRATA_CO_TRY_VOID(co_await write_header());
    backing_ = std::move(backing);
    co_return ok();
}

Task<FormatInfo> Qcow2Node::info() {
    const Header& h = header();
    FormatInfo info;
    info.cluster_size = h.cluster();
    info.encrypted = h.encryption != 0;
    info.dirty = (h.incompatible & kDirty) != 0;
    info.backing_name = h.backing;
    info.backing_format = h.backing_format;
    info.data_file = h.data_file;
    info.vm_state_offset = vm_state_offset();
    auto& s = info.specific;
    s.push_back({"compat", "compat", std::string(h.version >= 3 ? "1.1" : "0.10")});
    s.push_back({"compression-type", "compression type",
                 std::string(h.compression == Compression::Zstd ? "zstd" : "zlib")});
    if (h.version >= 3) {
        s.push_back({"lazy-refcounts", "lazy refcounts", (h.compatible & kLazyRefcounts) != 0});
    }
    s.push_back({"refcount-bits", "refcount bits", std::int64_t{1} << h.refcount_order});
    if (!bitmaps_.empty()) {
        s.push_back(bitmap_info());
    }
    encryption_info(info);
    if (h.version >= 3) {
        s.push_back({"corrupt", "corrupt", (h.incompatible & kCorrupt) != 0});
        if (!h.data_file.empty()) {
            s.push_back({"data-file", "data file", h.data_file});
        }
        if ((h.incompatible & kExternalData) != 0) {
            s.push_back({"data-file-raw", "data file raw", (h.autoclear & kRawExternalData) != 0});
        }
        s.push_back({"extended-l2", "extended l2", h.extended()});
    }
    co_return info;
}

namespace {

bool compresses(const CreateRequest& request) {
    return request.option("encrypt.format").empty() &&
           request.option("encryption", "off") == "off" && request.option("data_file").empty();
}

}  // namespace

const FormatDriver& driver() {
    static const FormatDriver kDriver{.name = "qcow2",
                                      .probe = &probe,
                                      .open = &Qcow2Node::open,
                                      .create = &create,
                                      .create_options = create_options(),
                                      .measure = &measure,
                                      .backing = true,
                                      .compresses = &compresses};
    return kDriver;
}

}  // namespace strata::block::qcow2
