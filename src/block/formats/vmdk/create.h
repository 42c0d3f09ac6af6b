// Making VMDK images: descriptor, extents, empty tables.
#pragma once

#include <span>

#include "block/registry.h"

namespace strata::block::vmdk {

[[nodiscard]] std::span<const CreateOption> create_options();
Task<> create(Loop& loop, CreateRequest request);

}  // namespace strata::block::vmdk
