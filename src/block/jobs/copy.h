// Copy: brings the content of one or several images (one behind the other) into another: convert,
// backup, mirror.
//
// Sources are asked what they are made of: holes and zeros are not read. What is read is looked
// through for zeros, which the target gets as holes where it can. Several chunks are on their way
// at a time; with `in_order` they are written one after another in the order of their offsets, as
// formats that are streams want it. With `checkpoint` the job stops for a moment now and then: all
// that is on its way arrives, the target is flushed, and whoever keeps the book is told how far the
// target is durably the source's. A copy that was killed goes on from there with `start`: what it
// had written beyond is written again.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "block/jobs/job.h"
#include "block/node.h"

namespace strata::block {

struct CopyOptions {
    bool target_zero = false;  ///< the target reads as zeros already
    bool keep_unallocated =
        false;  ///< the target has a backing file: what the source's layer lacks stays unallocated
    const Node* base =
        nullptr;  ///< with keep_unallocated: the source's layer below which nothing is copied
    std::uint64_t backing_size =
        ~0ULL;  ///< with keep_unallocated: beyond it the target reads as zeros
    bool compress = false;
    bool offload = false;  ///< copy within the host where that works
    bool in_order = true;
    unsigned parallel = 8;  ///< chunks on their way
    std::uint64_t sparse =
        4096;  ///< zeros of at least so many bytes become holes; 0: none do, not even known ones
    bool salvage = false;  ///< what cannot be read becomes zeros, and `warn` is told
    std::function<void(const std::string&)> warn;
    /// Only from here on, where a checkpoint was: what lies before is in the target already, and of
    /// what lies behind, parts may be.
    std::uint64_t start = 0;
    /// Everything below this offset is in the target, durably.
    std::function<Result<>(std::uint64_t done)> checkpoint;
    std::chrono::milliseconds checkpoint_every{5000};
};

/// Copies. Progress counts the bytes of data. The target is at least as large as the sources
/// together. Sizes are multiples of 512 bytes, or the tail is.
Task<> copy_image(std::vector<Node*> sources, Node& target, CopyOptions options,
                  JobControl& control);

}  // namespace strata::block
