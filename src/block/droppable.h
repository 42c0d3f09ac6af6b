// Droppable: a layer of a chain that can let a part of its content go.
#pragma once

#include <cstdint>

#include "block/task.h"

namespace strata::block {

class Droppable {
  public:
    virtual ~Droppable() = default;
    /// What this layer has of [offset, offset + length) goes, by whole clusters inside; what lies
    /// below shows there.
    virtual Task<> drop(std::uint64_t offset, std::uint64_t length) = 0;
};

}  // namespace strata::block
