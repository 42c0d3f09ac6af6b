// Disk orders: what is done on a graph's thread for a request: images opened from descriptors, jobs
// made, snapshots taken, limits changed, information put together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/control_protocol.h"
#include "base/unique_fd.h"
#include "block/live/live_disk.h"
#include "block/live/live_job.h"
#include "block/task.h"

namespace strata::vmm {

/// The job that `request` (mirror, backup, stream, commit) asks for; `file` is its target.
block::Task<std::shared_ptr<block::LiveJob>> make_job(block::LiveDisk& live,
                                                      api::ControlRequest request, UniqueFd file);

/// Puts a new overlay over the disk, or makes a snapshot inside the image.
block::Task<> take_snapshot(block::LiveDisk& live, api::ControlRequest request, UniqueFd file);

block::Task<> set_limits(block::LiveDisk& live, std::vector<api::DiskLimit> limits);

/// Adds "chain", "bitmaps", "snapshots" to what is told of a disk.
block::Task<> describe_disk(block::LiveDisk& live, api::Json& disk);

}  // namespace strata::vmm
