// What names and configures nodes of the block graph: blkdebug's files, dotted options, limits, and
// the names that stand for trees. Trees are opened over disks of nothing and asked for a little.
#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "block/filters/fault/rules.h"
#include "block/filters/limits_node.h"
#include "block/filters/throttle/throttle_group.h"
#include "block/registry.h"
#include "qemu_img/arguments.h"
#include "qemu_img/image_name.h"

namespace {

using namespace strata;         // NOLINT(google-build-using-namespace): a fuzz target
using namespace strata::block;  // NOLINT(google-build-using-namespace)

void use(NodeTree tree) {
    (void)qemu_img::name_of_tree(tree);
    NodeTree copy = tree;
    fault::RuleSet rules;
    (void)fault::add_rules(copy, rules);
    (void)Limits::take(copy);
    (void)throttle::Limits::take(copy);
    (void)copy.take_list("children");
    (void)copy.take_child("file");
    (void)copy.finish("format", "fuzz");
}

/// What would wait, or reach what lies outside of the target.
constexpr std::array<std::string_view, 9> kLeftOut = {
    "filename", "path", "host", "port", "config", "to", "latency-ns", "delay-us", "export"};
constexpr std::array<std::string_view, 4> kOutside = {"file", "host_device", "host_cdrom", "nbd"};

/// The tree with disks of nothing in the place of files and servers.
NodeTree apart(const NodeTree& tree) {
    NodeTree whole;
    for (const auto& [name, value] : tree.options()) {
        const std::string_view last =
            std::string_view(name).substr(name.rfind('.') + 1);  // npos + 1: all of it
        if (std::ranges::find(kLeftOut, last) != kLeftOut.end()) {
            continue;
        }
        const bool outside =
            last == "driver" && std::ranges::find(kOutside, value) != kOutside.end();
        whole.set(name, outside ? "null-co" : value);
    }
    return whole;
}

/// The same options for a throttle over a disk of nothing, whatever they were for.
NodeTree as_throttle(const NodeTree& tree) {
    NodeTree whole;
    for (const auto& [name, value] : tree.options()) {
        if (!name.starts_with("file") && name != "driver") {
            whole.set(name, value);
        }
    }
    whole.set("driver", "throttle");
    whole.set("file.driver", "null-co");
    return whole;
}

void open(Loop& loop, NodeTree tree) {
    const bool waits = std::ranges::any_of(
        tree.options(), [](const auto& each) { return each.second == "throttle"; });
    OpenOptions options;
    options.named_by_image = true;  // no configuration file, no trace
    options.tree = std::move(tree);
    auto node = loop.run(open_node(loop, std::move(options)));
    if (!node.ok()) {
        return;
    }
    std::array<std::byte, 4096> bytes{};
    if (!waits && (*node)->size() >= bytes.size()) {
        (void)loop.run((*node)->read((*node)->size() - bytes.size(), Buffers(std::span(bytes))));
        (void)loop.run((*node)->write(0, Buffers::of(bytes)));
        (void)loop.run((*node)->status(0, bytes.size()));
    }
    (void)loop.run((*node)->close());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data),
                           size);  // SAFETY: bytes as characters
    static const auto kLoop =
        Loop::create({.engine = IoEngine::Threads, .depth = 2, .workers = 1}).value();
    (void)fault::parse_config(text, "fuzz");
    if (auto tree = qemu_img::tree_of_name(text); tree.ok()) {
        use(*tree);
    }
    if (auto tree = qemu_img::tree_of_options(text); tree.ok()) {
        use(*tree);
        open(*kLoop, as_throttle(*tree));
        open(*kLoop, apart(*tree));
    }
    return 0;
}
