// Chains: jobs that move content between the layers of a chain: commit, rebase, flatten.
//
// All of them leave what a guest reads as it was at every point: content is written before a
// reference changes.
#pragma once

#include <cstdint>
#include <string>

#include "block/jobs/job.h"
#include "block/node.h"

namespace strata::block {

/// Writes what `top` and the layers between it and `base` hold into `target`, which is base's image
/// opened for writing. `target` grows to the size of `top`. Afterwards `target` alone reads as
/// `top` does.
Task<> commit_layers(Node& top, const Node* base, Node& target, JobControl& control);

/// Makes `overlay` independent of the difference between its old and its new backing layer (either
/// may be null): what it lacks and what reads differently is written to it. Its reference is not
/// changed. `common`: the new backing layer if it is one of the old chain: only what lies above it
/// is looked at.
Task<> absorb_difference(Node& overlay, Node* old_backing, Node* new_backing, const Node* common,
                         JobControl& control);

}  // namespace strata::block
