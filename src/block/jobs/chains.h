// Chains: jobs that move content between the layers of a chain: commit, rebase, flatten.
//
// All of them leave what a guest reads as it was at every point: content is written before a
// reference changes. Every few seconds what was done is made durable: one that was killed goes on
// from there when it is run again.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "block/jobs/job.h"
#include "block/node.h"

namespace strata::block {

/// How often what was done is made durable.
inline constexpr std::chrono::milliseconds kCheckpoint{5000};

/// Writes what `top` and the layers between it and `base` hold into `target`, which is base's image
/// opened for writing. `target` grows to the size of `top`. Afterwards `target` alone reads as
/// `top` does. `empties`: base is the layer right below `top`, which lets go of what is in `target`
/// durably, if it can; the rest of it is make_empty()'s.
Task<> commit_layers(Node& top, const Node* base, Node& target, JobControl& control,
                     bool empties = false, std::chrono::milliseconds checkpoint = kCheckpoint);

/// Makes `overlay` independent of the difference between its old and its new backing layer (either
/// may be null): what it lacks and what reads differently is written to it. Its reference is not
/// changed. `common`: the new backing layer if it is one of the old chain: only what lies above it
/// is looked at. Run again, it skips what `overlay` has.
Task<> absorb_difference(Node& overlay, Node* old_backing, Node* new_backing, const Node* common,
                         JobControl& control, std::chrono::milliseconds checkpoint = kCheckpoint);

}  // namespace strata::block
