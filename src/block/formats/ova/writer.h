// OvaWriter: an appliance that is being made: its disk is written once, in order; closing it brings
// sizes and digests into what stands before.
//
// Layout: description (kDescriptionBytes) | manifest | disk. The first two have their final length
// from the start, so that the disk's content lies where it will stay.
#pragma once

#include <cstddef>
#include <vector>

#include "block/registry.h"

namespace strata::block::ova {

[[nodiscard]] std::span<const CreateOption> create_options();
Task<> create(Loop& loop, CreateRequest request);

/// `file`: what create() made, and nobody has written to. Takes a disk in ascending order.
Task<NodePtr> open_new_appliance(NodePtr file, OpenOptions options);

}  // namespace strata::block::ova
