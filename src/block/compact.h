// Compact: an image made smaller where it lies, for the formats whose parts can move.
#pragma once

#include <cstdint>
#include <functional>

#include "block/task.h"

namespace strata::block {

struct CompactReport {
    std::uint64_t zeroes = 0;  ///< bytes of the disk that were data and are none any more
    std::uint64_t moved = 0;   ///< bytes of the file
};

/// Who looks on while an image is compacted. Each may be empty.
struct CompactWatch {
    std::function<void(std::uint64_t total)> begin;        ///< bytes there are to look at or move
    std::function<Result<>(std::uint64_t bytes)> advance;  ///< so many more; an error: stop soon
    /// Where so many bytes are looked through for zeros, or moved: waits as it likes; an error:
    /// stop soon.
    std::function<Task<>(std::uint64_t bytes)> look;
};

/// A node whose file can be packed: what lies at its end moves into its holes, and the end goes.
class Compactable {
  public:
    virtual ~Compactable() = default;
    /// Packing lets go what holds nothing but zeros; else that is to be written as zeros before.
    [[nodiscard]] virtual bool finds_zeroes() const { return false; }
    /// The image is whole at every moment, also of a crash; one that was stopped has no leaks, and
    /// another call goes on.
    virtual Task<CompactReport> pack_file(CompactWatch watch) = 0;
};

}  // namespace strata::block
