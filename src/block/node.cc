// Node: what a format lacks, and walks along the chain.
#include "block/node.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

namespace strata::block {

Error Node::lacks(std::string_view subject) const {
    return {ErrorKind::NotSupported,
            fmt::format("'{}': {} images have no {}", name_, format(), subject), ENOTSUP};
}

Result<> Node::check_range(std::uint64_t offset, std::uint64_t length, bool writing) const {
    if (offset > size() || length > size() - offset) {
        return Error{ErrorKind::Failed,
                     fmt::format("'{}': {} bytes at {} reach past the end at {}", name_, length,
                                 offset, size()),
                     EIO};
    }
    if (writing && traits().read_only) {
        return Error{ErrorKind::PermissionDenied, fmt::format("'{}' was opened read-only", name_),
                     EROFS};
    }
    return ok();
}

std::vector<Node*> Node::children() const {
    std::vector<Node*> all;
    for (Node* each : {file(), backing()}) {
        if (each != nullptr) {
            all.push_back(each);
        }
    }
    return all;
}

Task<> Node::write_compressed(std::uint64_t /*offset*/, Buffers /*from*/) {
    co_return lacks("compressed writes");
}
Task<> Node::resize(std::uint64_t /*size*/, Preallocation /*preallocation*/) {
    co_return lacks("resizing");
}
Task<> Node::make_empty() {
    co_return lacks("emptying");
}
Task<std::uint64_t> Node::allocated_bytes() {
    std::uint64_t total = 0;
    for (Node* each : children()) {
        if (each != backing()) {
            STRATA_CO_TRY(const std::uint64_t part, co_await each->allocated_bytes());
            total += part;
        }
    }
    co_return total;
}
Task<> Node::copy_from(Node& /*source*/, std::uint64_t /*from*/, std::uint64_t /*to*/,
                       std::uint64_t /*length*/) {
    co_return lacks("copying within the host");
}
Task<FormatInfo> Node::info() {
    co_return FormatInfo{};
}
Task<CheckReport> Node::check(Repair /*repair*/) {
    co_return lacks("checks");
}
Task<> Node::amend(OptionList /*options*/) {
    co_return lacks("options to amend");
}
Task<> Node::change_backing(NodePtr /*backing*/, std::string /*name*/, std::string /*format*/) {
    co_return lacks("backing files");
}
Task<std::vector<SnapshotInfo>> Node::snapshots() {
    co_return std::vector<SnapshotInfo>();
}
Task<std::string> Node::create_snapshot(SnapshotInfo /*snapshot*/) {
    co_return lacks("snapshots");
}
Task<> Node::apply_snapshot(std::string /*which*/) {
    co_return lacks("snapshots");
}
Task<> Node::delete_snapshot(std::string /*which*/) {
    co_return lacks("snapshots");
}
Task<> Node::load_snapshot(std::string /*which*/) {
    co_return lacks("snapshots");
}
Task<> Node::read_vm_state(std::uint64_t /*offset*/, Buffers /*into*/) {
    co_return lacks("VM state");
}
Task<> Node::write_vm_state(std::uint64_t /*offset*/, Buffers /*from*/) {
    co_return lacks("VM state");
}
Task<std::vector<BitmapInfo>> Node::bitmaps() {
    co_return std::vector<BitmapInfo>();
}
Task<Bitmap> Node::read_bitmap(std::string /*name*/) {
    co_return lacks("bitmaps");
}
Task<> Node::store_bitmap(Bitmap /*bitmap*/) {
    co_return lacks("bitmaps");
}
Task<> Node::remove_bitmap(std::string /*name*/) {
    co_return lacks("bitmaps");
}

Task<Extent> status_of_chain(Node& top, const Node* base, std::uint64_t offset,
                             std::uint64_t length, unsigned* depth) {
    unsigned level = 0;
    Extent extent;
    for (Node* node = &top; node != nullptr && node != base; node = node->backing(), ++level) {
        if (offset >= node->size()) {
            // A shorter layer: what lies beyond its end is zeros that the layer above made so.
            extent = Extent{.kind = Extent::Kind::Zero, .length = length};
            level -= level != 0 ? 1 : 0;
            break;
        }
        length = std::min(length, node->size() - offset);
        STRATA_CO_TRY(extent, co_await node->status(offset, length));
        length = extent.length;
        if (extent.kind != Extent::Kind::Unallocated) {
            break;
        }
    }
    if (depth != nullptr) {
        *depth = extent.kind == Extent::Kind::Unallocated && level != 0
                     ? level - 1
                     : level;  // nobody's: the lowest layer's
    }
    extent.length = length;
    co_return extent;
}

Task<> read_or_zero(Node* node, std::uint64_t offset, Buffers into) {
    const std::uint64_t limit = node != nullptr ? node->size() : 0;
    const std::size_t part =
        offset >= limit ? 0 : std::min<std::uint64_t>(into.size(), limit - offset);
    into.from(part).fill(std::byte{0});
    if (part != 0) {
        STRATA_CO_TRY_VOID(co_await node->read(offset, into.slice(0, part)));
    }
    co_return ok();
}

}  // namespace strata::block
