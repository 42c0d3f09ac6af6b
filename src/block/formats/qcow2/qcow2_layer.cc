// Qcow2Layer: opening, reading.
#include "block/formats/qcow2/qcow2_layer.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include <fmt/format.h>

#include "block/file_access.h"
#include "block/formats/qcow2/compression.h"

namespace strata::block::qcow2 {
namespace {

constexpr unsigned kSubclusters = 32;

Result<> check_supported(const Header& h, const DiskOptions& options) {
    const auto lacking = [&](std::string_view what) {
        return Error{ErrorKind::NotSupported, fmt::format("qcow2 image '{}' {}", options.path, what)};
    };
    if (h.encryption != 0) {
        return lacking("is encrypted, which is not supported; decrypt it with 'qemu-img convert'");
    }
    if ((h.incompatible & kExternalData) != 0) {
        return lacking("keeps its data in another file, which is not supported; join them with 'qemu-img convert'");
    }
    if (!options.read_only && (h.incompatible & kCorrupt) != 0) {
        return lacking("is marked corrupt: open it read-only, or repair it with 'qemu-img check -r all'");
    }
    if (!options.read_only && (h.incompatible & kDirty) != 0) {
        return lacking("was not closed and its refcounts are stale: open it read-only, or repair it with 'qemu-img check -r all'");
    }
    return ok();
}

Result<std::unique_ptr<Layer>> open_backing(const Header& h, const DiskOptions& options, unsigned depth) {
    if (h.backing.empty()) {
        return std::unique_ptr<Layer>();
    }
    if (!options.follow_references) {
        return Error{ErrorKind::PermissionDenied,
                     fmt::format("qcow2 image '{}' names a backing file, which an image may do only if it is trusted; allow it with "
                                 "'backing' if this one is",
                                 options.path)};
    }
    const std::size_t colon = h.backing.find(':');
    if (colon != std::string::npos && colon < h.backing.find('/')) {
        return Error{ErrorKind::NotSupported, fmt::format("qcow2 image '{}': its backing file is no plain file name", options.path)};
    }
    if (h.backing_format != "raw" && h.backing_format != "qcow2") {
        return Error{ErrorKind::NotSupported,
                     fmt::format("qcow2 image '{}': its backing file's format ({}) is not raw or qcow2; name it with 'qemu-img rebase -u -F'",
                                 options.path, h.backing_format.empty() ? "not told" : "another")};
    }
    DiskOptions below;
    below.path = (std::filesystem::path(options.path).parent_path() / h.backing).string();
    below.format = h.backing_format;
    below.read_only = true;
    below.lock = options.lock;
    below.follow_references = true;
    auto layer = open_layer(std::move(below), depth + 1);
    if (!layer.ok()) {
        return std::move(layer).error().context(fmt::format("backing file of '{}'", options.path));
    }
    return layer;
}

}  // namespace

Result<std::unique_ptr<Qcow2Layer>> Qcow2Layer::open(DiskOptions options, unsigned depth) {
    UniqueFd fd = STRATA_TRY(open_image_file(options));
    const std::uint64_t bytes = STRATA_TRY(file_size(fd.get(), options.path));
    std::vector<std::byte> start(std::min<std::uint64_t>(bytes, 1U << 21));
    STRATA_TRY_VOID(read_file(fd.get(), 0, start, options.path));
    Header header = STRATA_TRY(parse_header(start, options.path));
    STRATA_TRY_VOID(check_supported(header, options));
    auto backing = STRATA_TRY(open_backing(header, options, depth));
    if (!options.read_only && header.autoclear != 0) {
        // What these bits vouch for is not kept up here.
        const std::byte none[8] = {};
        STRATA_TRY_VOID(write_file(fd.get(), kAutoclearField, none, options.path));
    }
    auto metadata = STRATA_TRY(Metadata::load(fd.get(), options.path, std::move(header), bytes));
    return std::unique_ptr<Qcow2Layer>(
        new Qcow2Layer(std::move(options.path), std::move(fd), std::move(metadata), std::move(backing), options.read_only));
}

Qcow2Layer::~Qcow2Layer() {
    // What was freed last is counted by a second round. A failure leaves leaked clusters; a caller who must know has flushed.
    if (!read_only_ && metadata_->write_back().ok()) {
        (void)metadata_->write_back();
    }
}

Result<> Qcow2Layer::check(std::uint64_t offset, std::uint64_t length, bool writing) const {
    if (offset > size() || length > size() - offset) {
        return Error{ErrorKind::Failed, fmt::format("'{}': {} bytes at {} reach past the end at {}", name_, length, offset, size()), EIO};
    }
    if (writing && read_only_) {
        return Error{ErrorKind::PermissionDenied, fmt::format("'{}' was opened read-only", name_), EROFS};
    }
    return ok();
}

Result<Mapping> Qcow2Layer::look_up(std::uint64_t offset) {
    const std::lock_guard lock(lookup_);
    return metadata_->look_up(offset);
}

Result<> Qcow2Layer::read_below(std::uint64_t offset, std::span<std::byte> into) {
    const std::uint64_t limit = backing_ ? backing_->size() : 0;
    const std::size_t part = offset >= limit ? 0 : std::min<std::uint64_t>(into.size(), limit - offset);
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(part), into.end(), std::byte{0});
    return part == 0 ? ok() : backing_->read(offset, into.first(part));
}

Result<> Qcow2Layer::read_compressed(std::uint64_t offset, std::span<std::byte> into, const Mapping& m) {
    std::vector<std::byte> packed(m.length), whole(header_.cluster());
    STRATA_TRY_VOID(read_file(fd_.get(), m.host, packed, name_));
    if (!decompress(header_.compression, packed, whole)) {
        return Error{ErrorKind::Failed, fmt::format("qcow2 image '{}' is corrupt: the compressed cluster at {:#x} (for {:#x}) is broken",
                                                    name_, m.host, offset), EIO};
    }
    const auto from = std::span(whole).subspan(offset % header_.cluster(), into.size());
    std::copy(from.begin(), from.end(), into.begin());
    return ok();
}

Result<> Qcow2Layer::read_subclusters(std::uint64_t offset, std::span<std::byte> into, const Mapping& m) {
    const std::uint64_t bytes = header_.cluster() / kSubclusters;
    while (!into.empty()) {
        const std::uint64_t within = offset % header_.cluster();
        const unsigned bit = static_cast<unsigned>(within / bytes);
        const std::size_t part = std::min<std::uint64_t>(into.size(), bytes - within % bytes);
        if ((m.allocated >> bit & 1) != 0) {
            STRATA_TRY_VOID(read_file(fd_.get(), m.host + within, into.first(part), name_));
        } else if ((m.zero >> bit & 1) != 0) {
            std::fill_n(into.begin(), part, std::byte{0});
        } else {
            STRATA_TRY_VOID(read_below(offset, into.first(part)));
        }
        into = into.subspan(part);
        offset += part;
    }
    return ok();
}

Result<> Qcow2Layer::read_piece(std::uint64_t offset, std::span<std::byte> into, const Mapping& m) {
    switch (m.kind) {
        case Mapping::Kind::Unallocated: return read_below(offset, into);
        case Mapping::Kind::Zero: std::fill(into.begin(), into.end(), std::byte{0}); return ok();
        case Mapping::Kind::Compressed: return read_compressed(offset, into, m);
        case Mapping::Kind::Normal: break;
    }
    return header_.extended() && m.allocated != ~0U ? read_subclusters(offset, into, m)
                                                    : read_file(fd_.get(), m.host + offset % header_.cluster(), into, name_);
}

Result<> Qcow2Layer::read(std::uint64_t offset, std::span<std::byte> into) {
    STRATA_TRY_VOID(check(offset, into.size(), false));
    const std::shared_lock gate(gate_);
    while (!into.empty()) {
        const std::size_t part = std::min<std::uint64_t>(into.size(), header_.cluster() - offset % header_.cluster());
        const Mapping mapping = STRATA_TRY(look_up(offset));
        STRATA_TRY_VOID(read_piece(offset, into.first(part), mapping));
        into = into.subspan(part);
        offset += part;
    }
    return ok();
}

Result<Extent> Qcow2Layer::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_TRY_VOID(check(offset, length, false));
    const std::shared_lock gate(gate_);
    Extent extent;
    std::uint64_t done = 0;
    while (done < length) {
        const std::uint64_t part = std::min(length - done, header_.cluster() - (offset + done) % header_.cluster());
        const Mapping m = STRATA_TRY(look_up(offset + done));
        Extent here;
        if (m.kind == Mapping::Kind::Unallocated) {
            here.kind = Extent::Kind::Unallocated;
        } else if (m.kind == Mapping::Kind::Zero) {
            here.kind = Extent::Kind::Zero;
        } else if (m.kind == Mapping::Kind::Normal) {
            here.has_offset = true;
            here.offset = m.host + (offset + done) % header_.cluster();
        }
        if (done == 0) {
            extent = here;
        } else if (extent.kind != here.kind || extent.has_offset != here.has_offset ||
                   (here.has_offset && here.offset != extent.offset + done)) {
            break;
        }
        done += part;
    }
    extent.length = done;
    return extent;
}

}  // namespace strata::block::qcow2
