// Loops: which blocks are loops whose memory accesses can be checked once for many iterations
// (loop_windows.h), and which get a few iterations into one block, where runs of accesses share a
// check.
#pragma once

#include <memory>
#include <vector>

#include "engine/soft/cache/loop_windows.h"
#include "engine/soft/translate/analysis.h"

namespace strata::engine::soft {

/// If `units` end with a branch to the first of them and step through memory: how, with `slot` and
/// `hoist` of the units that are covered. Else null. Flags were analysed. A register counts as
/// stepping only if all its 64 bits do, for an address wraps around where 32 bits do not.
[[nodiscard]] std::unique_ptr<LoopWindows> find_loop(std::vector<Unit>& units,
                                                     std::uint64_t ram_offset, bool floating);

/// If `units` end with a branch back to one of them: puts further iterations behind them. Whether
/// it did; flags are to be analysed anew.
bool unroll_loop(std::vector<Unit>& units);

}  // namespace strata::engine::soft
