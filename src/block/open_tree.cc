// Trees of nodes: opening them, and the table of nodes that are no formats.
#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include <fmt/format.h>

#include "block/filters/copy_on_read/copy_on_read.h"
#include "block/filters/fault/fault.h"
#include "block/filters/quorum/quorum.h"
#include "block/filters/throttle/throttle.h"
#include "block/filters/trace/trace.h"
#include "block/protocols/fat/fat_node.h"
#include "block/protocols/file/file_node.h"
#include "block/protocols/null/null_node.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr unsigned kMaxDepth = 32;

/// An export of a server; the registry opens it.
Task<NodePtr> open_nbd(Loop& loop, NodeTree tree, OpenOptions options) {
    options.protocol = "nbd";
    options.protocol_options = tree.options();
    options.format = "file";
    co_return co_await open_node(loop, std::move(options));
}

constexpr NodeDriver kNbd{.name = "nbd", .open = &open_nbd};

const std::vector<NodeDriver>& table() {
    static const std::vector<NodeDriver> kTable = [] {
        std::vector<NodeDriver> all{copy_on_read::driver(),
                                    fault::driver(),
                                    fault::blkdebug_driver(),
                                    fat::driver(),
                                    kNbd,
                                    null::driver(),
                                    null::aio_driver(),
                                    quorum::driver(),
                                    throttle::driver(),
                                    trace::driver()};
        std::sort(all.begin(), all.end(),
                  [](const NodeDriver& a, const NodeDriver& b) { return a.name < b.name; });
        return all;
    }();
    return kTable;
}

/// What any node may be told beside its own options.
constexpr std::array<std::string_view, 6> kIgnored = {
    "cache.no-flush", "cache.writeback", "node-name", "detect-zeroes", "auto-read-only", "aio"};

Result<> take_common(NodeTree& tree, OpenOptions& options) {
    options.read_only = STRATA_TRY(tree.take_flag("read-only", options.read_only));
    if (STRATA_TRY(tree.take_flag("cache.direct", false))) {
        options.cache = CacheMode::None;
    }
    if (STRATA_TRY(tree.take_flag("force-share", false))) {
        options.lock = false;
    }
    if (const auto discard = tree.take("discard")) {
        options.discard = *discard == "unmap" || *discard == "on";
    }
    for (const std::string_view each : kIgnored) {
        (void)tree.take(each);
    }
    return ok();
}

Task<NodePtr> open_file(Loop& loop, OpenOptions options) {
    NodeTree tree = std::move(options.tree);
    const auto path = tree.take("filename");
    if (!path || path->empty()) {
        co_return Error{ErrorKind::InvalidArgument, "The 'file' block driver requires a file name",
                        EINVAL};
    }
    if (tree.take("locking").value_or("auto") == "off") {
        options.lock = false;
    }
    STRATA_CO_TRY_VOID(tree.finish("protocol", "file"));
    options.path = *path;
    options.format = "file";
    options.tree = NodeTree();
    co_return co_await open_node(loop, std::move(options));
}

/// The files that `node` lies in: a layer below that leads back to one of them is refused.
void add_identities(Node& node, OpenOptions& options) {
    if (const auto* file = dynamic_cast<const FileNode*>(&node)) {
        options.above.push_back(file->identity());
    }
    for (Node* each : node.children()) {
        if (each != node.backing()) {
            add_identities(*each, options);
        }
    }
}

/// The protocol node that a format lies on: the child "file", or a file name.
Task<NodePtr> open_ground(Loop& loop, NodeTree& tree, const OpenOptions& options) {
    OpenOptions ground = options.below();
    ground.tree = tree.take_child("file");
    if (auto path = tree.take("filename"); path && ground.tree.empty()) {
        ground.tree.set("filename", std::move(*path));
    }
    if (ground.tree.empty()) {
        co_return Error{ErrorKind::InvalidArgument, "A block device must be specified for \"file\"",
                        EINVAL};
    }
    if (!ground.tree.has("driver")) {
        ground.tree.set("driver", "file");
    }
    co_return co_await open_tree(loop, std::move(ground));
}

Task<NodePtr> open_with_format(Loop& loop, std::string format, OpenOptions options) {
    NodeTree tree = std::move(options.tree);
    options.tree = NodeTree();
    const FormatDriver* driver = nullptr;
    if (!format.empty()) {
        STRATA_CO_TRY(driver, find_format(format));
    } else if (!options.guess) {
        co_return Error{ErrorKind::InvalidArgument, "the format is not told (driver=...)", EINVAL};
    }
    STRATA_CO_TRY(NodePtr file, co_await open_ground(loop, tree, options));
    if (driver == nullptr) {
        STRATA_CO_TRY(format, co_await probe_format(*file));
        STRATA_CO_TRY(driver, find_format(format));
    }
    if (const auto none = tree.take("backing"); none && (none->empty() || *none == "null")) {
        options.open_backing = false;
    }
    if (NodeTree backing = tree.take_child("backing");
        backing.has("driver") || backing.has("file") || backing.has("filename")) {
        options.backing = std::move(backing);
    } else {
        tree.graft("backing", backing);  // options of the layer that the image names
    }
    options.path = file->name();
    options.format = format;
    options.extra = tree.options();
    add_identities(*file, options);
    co_return co_await driver->open(std::move(file), std::move(options));
}

}  // namespace

std::span<const NodeDriver> node_drivers() {
    return table();
}

Task<NodePtr> open_tree(Loop& loop, OpenOptions options) {
    if (options.depth++ >= kMaxDepth) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("more than {} nodes lie over each other", kMaxDepth), EINVAL};
    }
    STRATA_CO_TRY_VOID(take_common(options.tree, options));
    std::string name = options.tree.take("driver").value_or("");
    if (name == "file" || name == "host_device") {
        co_return co_await open_file(loop, std::move(options));
    }
    const auto found = std::find_if(table().begin(), table().end(),
                                    [&](const NodeDriver& each) { return each.name == name; });
    if (found == table().end()) {
        co_return co_await open_with_format(loop, std::move(name), std::move(options));
    }
    if (options.named_by_image && !found->named_by_images) {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("an image may not ask for '{}'", name), EPERM};
    }
    NodeTree tree = std::move(options.tree);
    options.tree = NodeTree();
    co_return co_await found->open(loop, std::move(tree), std::move(options));
}

Task<NodePtr> open_child(Loop& loop, NodeTree& tree, std::string_view name,
                         const OpenOptions& options) {
    OpenOptions child = options.below();
    child.tree = tree.take_child(name);
    if (child.tree.empty()) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("A block device must be specified for \"{}\"", name), EINVAL};
    }
    if (!child.tree.has("driver") && !child.tree.has("file")) {
        child.tree.set("driver", "file");
    }
    child.open_backing = options.open_backing;
    child.open_data = options.open_data;
    child.for_check = options.for_check;
    co_return co_await open_tree(loop, std::move(child));
}

}  // namespace strata::block
