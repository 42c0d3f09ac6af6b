// Direct comparison: stretches of two files that the host's cache has, compared by a worker thread.
//
// The thread reads small pieces of both in turn, so what was copied out of the cache is still in
// the processor's when it is compared, and several threads share the work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "block/node.h"

namespace strata::block {

/// A stretch of a file that a job reads by itself.
struct FileStretch {
    int fd = -1;  ///< -1: there is none, and zeros count
    std::uint64_t offset = 0;
};

/// Two stretches that should be the same, at a place of both disks.
struct StretchPair {
    std::uint64_t at = 0, length = 0;
    FileStretch first, second;
};

/// How a comparison of such pairs ended.
struct StretchComparison {
    std::size_t same = 0;                     ///< so many pairs, from the first one on
    std::optional<std::uint64_t> difference;  ///< of the next one: where on the disks its first
                                              ///< different sector is; nothing: it cannot be read
};

/// Nodes that show no other bytes than their files have, where they say so, and that do nothing
/// else on a read: formats over files.
[[nodiscard]] bool shows_files(const Node& top);

/// Where `extent` lies, if reading it there is as good as reading it through its node.
[[nodiscard]] std::optional<FileStretch> stretch_of(const Extent& extent);

/// Compares up to the first difference. Any thread; touches nothing of a graph.
StretchComparison compare_stretches(std::span<const StretchPair> pairs);

}  // namespace strata::block
