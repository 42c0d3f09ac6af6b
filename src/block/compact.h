// Compact: an image made smaller where it lies, for the formats whose parts can move.
#pragma once

#include <cstdint>
#include <functional>

#include "block/task.h"

namespace strata::block {

/// Who looks on while an image is compacted.
struct CompactWatch {
    std::function<void(std::uint64_t total)> begin;        ///< bytes there are to move
    std::function<Result<>(std::uint64_t bytes)> advance;  ///< so many more; an error: stop soon
};

/// A node whose file can be packed: what lies at its end moves into its holes, and the end goes.
class Compactable {
  public:
    virtual ~Compactable() = default;
    /// Answers how many bytes were moved. The image is whole at every moment, also of a crash; one
    /// that was stopped has no leaks, and another call goes on.
    virtual Task<std::uint64_t> pack_file(CompactWatch watch) = 0;
};

}  // namespace strata::block
