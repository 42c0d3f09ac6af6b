// Snapshot table: the list of an image's internal snapshots.
#pragma once

#include <string>
#include <vector>

#include "block/image_info.h"

namespace strata::qemu_img {

/// "Snapshot list:" and its lines.
std::string snapshot_table(const std::vector<block::SnapshotInfo>& snapshots);

}  // namespace strata::qemu_img
