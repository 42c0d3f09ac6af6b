// Making VMDK images: descriptor, extents, empty tables.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "block/registry.h"

namespace strata::block::vmdk {

[[nodiscard]] std::span<const CreateOption> create_options();
Task<> create(Loop& loop, CreateRequest request);
/// What a stream (streamOptimized) of request.size bytes begins with, before its first grain; its
/// descriptor calls it `name`.
Result<std::vector<std::byte>> stream_start(const CreateRequest& request, std::string_view name);

}  // namespace strata::block::vmdk
