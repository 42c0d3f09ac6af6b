// The format "vmdk": probing and opening: descriptor, extents, parent.
#include "block/formats/vmdk/vmdk.h"

#include <algorithm>

#include <fmt/format.h>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/vmdk/create.h"
#include "block/formats/vmdk/descriptor.h"
#include "block/formats/vmdk/se_sparse.h"
#include "block/formats/vmdk/sparse_extent.h"
#include "block/formats/vmdk/stream_writer.h"
#include "block/formats/vmdk/vmdk_node.h"

namespace strata::block::vmdk {
namespace {

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_sparse(start) || is_descriptor(start) ? 100 : 0;
}

Task<NodePtr> open_parent(Loop& loop, const OpenOptions& options, const Descriptor& descriptor) {
    Reference reference{.kind = Reference::Kind::Backing,
                        .name = descriptor.parent,
                        .format = "vmdk",
                        .referrer = options.path};
    STRATA_CO_TRY(NodePtr node, co_await open_reference(loop, options, std::move(reference)));
    const auto* below = dynamic_cast<const VmdkNode*>(node.get());
    if (below == nullptr || below->cid() != descriptor.parent_cid) {
        co_return broken_image(
            "VMDK", options.path,
            fmt::format(
                "'{}' is not its parent, or was written since: its content id is not {:08x}",
                descriptor.parent, descriptor.parent_cid));
    }
    co_return node;
}

/// Extent `line`, without a file so far.
VmdkNode::Extent extent_of(const ExtentLine& line, std::uint64_t start) {
    return {.start = start,
            .size = line.sectors * 512,
            .flat = line.type == ExtentType::Flat,
            .file = line.file,
            .type_name = line.type_name};
}

/// Extent `line`, which is not to be opened.
VmdkNode::Extent closed_extent(const ExtentLine& line, std::uint64_t start) {
    VmdkNode::Extent extent = extent_of(line, start);
    extent.closed = line.type != ExtentType::Zero;
    return extent;
}

/// Opens extent `line` in `file`.
Task<VmdkNode::Extent> open_extent(NodePtr file, const OpenOptions& options, const ExtentLine& line,
                                   std::uint64_t start, NodePtr backing) {
    VmdkNode::Extent extent = extent_of(line, start);
    if (line.type == ExtentType::Flat) {
        extent.offset = line.offset * 512;
        if (!lies_within(extent.offset, extent.size, file->size())) {
            co_return broken_image(
                "VMDK", options.path,
                fmt::format("extent '{}' has {} bytes, {} from {} on are to be there", line.file,
                            file->size(), extent.size, extent.offset));
        }
        extent.node = std::move(file);
        co_return extent;
    }
    if (line.type == ExtentType::SeSparse) {
        if (!options.read_only) {
            co_return unsupported_image("VMDK", options.path,
                                        "SESPARSE extents can be read only; open it read-only");
        }
        std::string name = file->name();
        STRATA_CO_TRY(extent.node, co_await open_se_sparse(std::move(file), std::move(name),
                                                           extent.size, std::move(backing), start));
        co_return extent;
    }
    bool fresh = false;
    STRATA_CO_TRY(SparseHeader header, co_await read_sparse_header(*file, options.path, fresh));
    if (header.cowd != (line.type == ExtentType::VmfsSparse) || header.capacity < line.sectors ||
        fresh) {
        co_return broken_image(
            "VMDK", options.path,
            fmt::format("extent '{}' is not what the descriptor says", line.file));
    }
    header.capacity = line.sectors;
    extent.compressed = header.compressed();
    std::string name = file->name();
    extent.node = std::make_shared<SparseExtent>(std::move(file), std::move(name),
                                                 options.read_only || !line.writable, header,
                                                 std::move(backing), start);
    co_return extent;
}

Task<NodePtr> open_extent_file(Loop& loop, const OpenOptions& options, const ExtentLine& line) {
    Reference reference{
        .kind = Reference::Kind::Extent, .name = line.file, .format = {}, .referrer = options.path};
    co_return co_await open_reference(loop, options, std::move(reference),
                                      options.read_only || !line.writable);
}

/// The disk that `descriptor` describes; its only extent is `embedded`, or they are files of their
/// own.
Task<NodePtr> assemble(NodePtr file, const OpenOptions& options, Descriptor descriptor,
                       VmdkNode::DescriptorPlace place, bool embedded) {
    Loop& loop = file->loop();
    NodePtr backing;
    if (descriptor.parent_cid != kNoParent && options.open_backing) {
        STRATA_CO_TRY(backing, co_await open_parent(loop, options, descriptor));
    }
    // extents=optional (info): those that may not be opened are told of alone.
    const bool closed = !embedded && options.read_only && options.references == nullptr &&
                        options.extra_of("extents") == "optional";
    std::vector<VmdkNode::Extent> extents;
    std::uint64_t start = 0;
    for (const ExtentLine& line : descriptor.extents) {
        if (line.type == ExtentType::Zero || closed) {
            extents.push_back(closed_extent(line, start));
        } else {
            NodePtr extent_file = file;
            if (!embedded) {
                STRATA_CO_TRY(extent_file, co_await open_extent_file(loop, options, line));
            }
            STRATA_CO_TRY(
                VmdkNode::Extent extent,
                co_await open_extent(std::move(extent_file), options, line, start, backing));
            extents.push_back(std::move(extent));
        }
        start += line.sectors * 512;
    }
    co_return NodePtr(std::make_shared<VmdkNode>(std::move(file), options.path, options.read_only,
                                                 std::move(descriptor), place, std::move(extents),
                                                 std::move(backing)));
}

/// A sparse extent that was opened as the image: alone or with its descriptor inside.
Task<NodePtr> open_sparse(NodePtr file, const OpenOptions& options) {
    bool fresh = false;
    STRATA_CO_TRY(const SparseHeader header,
                  co_await read_sparse_header(*file, options.path, fresh));
    if (fresh) {
        if (options.read_only) {
            co_return broken_image("VMDK", options.path,
                                   "a stream without its end: it was not written yet");
        }
        co_return NodePtr(std::make_shared<StreamWriter>(std::move(file), options.path, header));
    }
    if (!options.read_only && (header.compressed() || header.version == 3)) {
        co_return unsupported_image(
            "VMDK", options.path,
            "compressed images and those of version 3 can be read only; open it read-only");
    }
    if (header.descriptor_offset == 0 || header.cowd) {
        Descriptor alone;
        alone.create_type = header.cowd ? "vmfsSparse" : "monolithicSparse";
        alone.extents.push_back({.writable = false,
                                 .sectors = header.capacity,
                                 .type = header.cowd ? ExtentType::VmfsSparse : ExtentType::Sparse,
                                 .type_name = header.cowd ? "VMFSSPARSE" : "SPARSE",
                                 .file = options.path});
        if (!options.read_only) {
            co_return unsupported_image(
                "VMDK", options.path,
                "a part of an image, without its descriptor, can be read only; open it read-only");
        }
        co_return co_await assemble(std::move(file), options, std::move(alone), {}, true);
    }
    const VmdkNode::DescriptorPlace place{
        header.descriptor_offset * 512,
        std::min<std::uint64_t>(header.descriptor_sectors * 512, kMaxDescriptor)};
    STRATA_CO_TRY(const auto text, co_await read_bytes(*file, place.offset, place.length));
    STRATA_CO_TRY(Descriptor descriptor, parse_descriptor(text, options.path));
    // The extent that the descriptor lies in is this file, whatever it was called when it was made.
    const bool embedded =
        descriptor.extents.size() == 1 && descriptor.extents[0].type == ExtentType::Sparse;
    if (!embedded) {
        co_return broken_image("VMDK", options.path,
                               "the descriptor inside it speaks of other files");
    }
    co_return co_await assemble(std::move(file), options, std::move(descriptor), place, true);
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto start, co_await read_bytes(*file, 0, 512));
    if (is_sparse(start)) {
        co_return co_await open_sparse(std::move(file), options);
    }
    if (file->size() > kMaxDescriptor) {
        co_return broken_image("VMDK", options.path, "this is no VMDK image");
    }
    const VmdkNode::DescriptorPlace place{0, file->size()};
    STRATA_CO_TRY(const auto text, co_await read_bytes(*file, 0, place.length));
    STRATA_CO_TRY(Descriptor descriptor, parse_descriptor(text, options.path));
    co_return co_await assemble(std::move(file), options, std::move(descriptor), place, false);
}

}  // namespace

const FormatDriver& driver() {
    static const FormatDriver kDriver{.name = "vmdk",
                                      .probe = &probe,
                                      .open = &open,
                                      .create = &create,
                                      .create_options = create_options(),
                                      .backing = true,
                                      .compresses = [](const CreateRequest& request) {
                                          return request.option("subformat") == "streamOptimized";
                                      }};
    return kDriver;
}

}  // namespace strata::block::vmdk
