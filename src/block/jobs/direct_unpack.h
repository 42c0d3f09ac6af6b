// Direct unpacking: compressed clusters of one file, unpacked by a worker thread into another; plain
// stretches are copied in the same way.
//
// The thread reads a few packed clusters at once, unpacks them and writes them while they are in
// its processor's cache. It asks nothing of the graph meanwhile, so the workers stay busy also
// where the graph's thread is kept waiting for a processor, and a copy needs the memory of what the
// workers hold, not of all that is on its way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "block/jobs/direct_compare.h"
#include "block/node.h"
#include "block/packed_source.h"

namespace strata::block {

/// Where a disk begins in the file that writes to it go to, if writing there is as good as writing
/// through its node: a raw image in the host's cache.
struct DirectTarget {
    int fd = -1;
    std::uint64_t start = 0, size = 0;
};

/// Files that both lie in the host's cache, and how to go from one to the other.
struct UnpackRoute {
    int from = -1;
    DirectTarget to;
    std::size_t cluster = 0;
    PackedSource::Unpack unpack = nullptr;
    std::uint64_t sparse = 0;  ///< zeros of so many bytes stay holes: the target reads as zeros; 0:
                               ///< all is written
};
Task<std::optional<DirectTarget>> direct_target(Node& target);

/// Copies `length` bytes at `from` to `at` on the target's disk, piece by piece through a buffer
/// that stays in the processor's cache. `sparse` and the answer as for unpack_pieces().
bool copy_stretch(FileStretch from, const DirectTarget& target, std::uint64_t at,
                  std::uint64_t length, std::uint64_t sparse);

/// How the pieces of `source` get to `target`, if its file may be read without its node.
std::optional<UnpackRoute> unpack_route(const PackedSource& source, const DirectTarget& target,
                                        std::uint64_t sparse);

/// Unpacks `pieces`, of which the first goes to `at` on the target's disk and the others behind it.
/// False: something went wrong, and some of it may be written. Any thread; touches nothing of a
/// graph.
bool unpack_pieces(const UnpackRoute& route, std::span<const PackedPiece> pieces, std::uint64_t at);

}  // namespace strata::block
