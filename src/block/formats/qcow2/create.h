// Qcow2 create: options and making of a new image, and how large one would be.
#pragma once

#include <span>

#include "block/formats/qcow2/header.h"
#include "block/registry.h"

namespace strata::block::qcow2 {

[[nodiscard]] std::span<const CreateOption> create_options();
std::span<const CreateOption> amend_options();

/// Makes an image; what was there is replaced. Files that it names are not opened, but a data file
/// is made.
Task<> create(Loop& loop, CreateRequest request);

Task<Measurement> measure(Node* source, CreateRequest request);

}  // namespace strata::block::qcow2
