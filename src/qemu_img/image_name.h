// Image names: what the peer's users write in place of a file name: json:{…},
// blkdebug:CONFIG:IMAGE, null-co://, fat:FOLDER, file:PATH.
//
// Each becomes a tree of nodes (block/node_tree.h); the tree becomes a name again for people.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "block/node_tree.h"

namespace strata::qemu_img {

/// A path: no prefix "x:" before its first slash.
bool is_plain_name(std::string_view name);
/// The path of "PATH" and "file:PATH", "./" before one that would look like another name. Nothing:
/// it is no path.
std::optional<std::string> path_of_name(const std::string& name);
/// The nodes that `name` stands for: a protocol node, or for json: whatever it says. The error is
/// "Unknown protocol 'x'" for others.
Result<block::NodeTree> tree_of_name(const std::string& name);
/// "a.b=c,d=e" as --image-opts has it.
Result<block::NodeTree> tree_of_options(const std::string& text);
/// A name for the tree that `tree` is: the path if that says it all, or json:{…}.
std::string name_of_tree(const block::NodeTree& tree);
/// The file that `name` in an image at `referrer` leads to: relative paths lie beside the image.
std::string beside(const std::string& referrer, const std::string& name);

}  // namespace strata::qemu_img
