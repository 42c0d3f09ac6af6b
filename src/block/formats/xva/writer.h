// XvaWriter: an export that is being made: description, then blocks, each with its checksum, in
// ascending order.
//
// Blocks of zeros are left out, but for the first and the last, which XenServer always writes.
// Until the export is closed its description lies under another name, so that nobody takes half of
// it for the whole.
#pragma once

#include <string_view>

#include "block/registry.h"

namespace strata::block::xva {

/// The folder of the description of what has no end yet; with "-NAME" of the sums if they are not
/// the first of kSumStyles.
inline constexpr std::string_view kUnfinished = "unfinished";

[[nodiscard]] std::span<const CreateOption> create_options();
Task<> create(Loop& loop, CreateRequest request);

/// `file`: what create() made, and nobody has written to. Takes a disk in ascending order.
Task<NodePtr> open_new_export(NodePtr file, OpenOptions options);

}  // namespace strata::block::xva
