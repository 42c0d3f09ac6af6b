// GraphImage: a guest's disk over a block graph, which has an I/O thread of its own.
#pragma once

#include <memory>

#include "block/disk_image.h"
#include "block/registry.h"

namespace strata::block {

/// Opens `options.path` and what it refers to, and starts its thread.
Result<std::unique_ptr<DiskImage>> open_graph_image(DiskOptions options);

}  // namespace strata::block
