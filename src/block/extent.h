// Extent: what a stretch of a disk is made of.
#pragma once

#include <cstdint>

namespace strata::block {

class Node;

struct Extent {
    enum class Kind : std::uint8_t {
        Data,
        Zero,         ///< known to read as zeros
        Unallocated,  ///< this layer says nothing: what lies below shows, or zeros
    };
    Kind kind = Kind::Data;
    std::uint64_t length = 0;  ///< at least 1, at most what was asked for
    bool has_offset = false;
    std::uint64_t offset =
        0;  ///< where in `file` (of a Zero: space set aside for it), if `has_offset`
    bool compressed = false;
    const Node* owner = nullptr;  ///< the layer that says so; null: it follows from a layer's end
    const Node* file = nullptr;   ///< what `offset` is an offset of; null: unknown
    int context = -1;  ///< NBD: the flags of a metadata context that was asked for instead of
                       ///< allocation (x-dirty-bitmap); -1: none
};

}  // namespace strata::block
