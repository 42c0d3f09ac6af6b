// Compact: a job that makes an image's file smaller where it lies.
//
// Clusters that hold nothing but zeros are let go first, as any writer of zeros does it or as the
// format has it; then, where the format can (block/compact.h), what lies at the end of the file
// moves into the holes, and the file ends earlier. Elsewhere the holes go back to the host and the
// file keeps its length.
#pragma once

#include "block/compact.h"
#include "block/jobs/job.h"
#include "block/node.h"

namespace strata::block {

/// Compacts what `node` has itself; layers below are not looked at. A job that was cancelled leaves
/// a whole image, and running it again goes on.
Task<CompactReport> compact_image(NodePtr node, JobControl& control);

}  // namespace strata::block
