// What names and configures nodes of the block graph: blkdebug's files, dotted options, limits, and
// the names that stand for trees.
#include <cstdint>
#include <string>
#include <string_view>

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

/// Opens it as the options of a throttle over a disk of nothing.
void open(Loop& loop, const NodeTree& tree) {
    OpenOptions options;
    options.named_by_image = true;  // no configuration file, no trace
    NodeTree whole;
    for (const auto& [name, value] : tree.options()) {
        if (!name.starts_with("file") && name != "driver") {
            whole.set(name, value);
        }
    }
    whole.set("driver", "throttle");
    whole.set("file.driver", "null-co");
    options.tree = std::move(whole);
    auto node = loop.run(open_node(loop, std::move(options)));
    if (node.ok()) {
        (void)loop.run((*node)->close());
    }
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
        open(*kLoop, *tree);
    }
    return 0;
}
