// Chain: finding layers of a chain by the names people give them.
#pragma once

#include <string>

#include "block/node.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {

/// The layer below `top` that `name` means as the layer above it would: a relative name lies beside
/// that. Null: none.
block::Node* find_layer(block::Node& top, const std::string& name);

/// How to open `layer`, which lies below `top`, once more.
Result<ImageSpec> spec_of_layer(Session& session, const ImageSpec& top_spec, block::Node& top,
                                block::Node& layer);

}  // namespace strata::qemu_img
