// Extents of a whole chain, merged: what `map` prints.
#pragma once

#include <cstdint>
#include <functional>

#include "block/node.h"

namespace strata::block {

/// A stretch of a disk with what a reader gets there and where it lies.
struct MapEntry {
    std::uint64_t start = 0, length = 0;
    unsigned depth = 0;    ///< layers below the top one; 0: the top one
    bool present = false;  ///< some layer has it
    bool zero = false, data = false;
    bool has_offset = false;
    std::uint64_t offset = 0;  ///< in `file`
    const Node* file = nullptr;
    bool compressed = false;
};

/// Calls `visit` for each stretch of [start, end), neighbours of a kind merged.
Task<> map_image(Node& top, std::uint64_t start, std::uint64_t end,
                 std::function<void(const MapEntry&)> visit);

}  // namespace strata::block
