// PackedTarget: a layer that takes several clusters to compress at once.
#pragma once

#include <cstdint>

#include "block/buffers.h"
#include "block/task.h"

namespace strata::block {

class PackedTarget {
  public:
    virtual ~PackedTarget() = default;
    /// As Node::write_compressed() for clusters side by side, of which the last may be the disk's
    /// short one. After an error some of them may be there.
    virtual Task<> write_packed(std::uint64_t offset, Buffers from) = 0;
};

}  // namespace strata::block
