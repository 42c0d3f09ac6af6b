// SnapshotTable: the internal snapshots of a qcow2 image as they stand in its file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/image_info.h"
#include "block/node.h"

namespace strata::block::qcow2 {

struct Snapshot {
    std::uint64_t l1_offset = 0;
    std::uint32_t l1_entries = 0;
    SnapshotInfo info;
    std::vector<std::byte> more;  ///< extra data that is unknown here, as it is
};

struct SnapshotTable {
    std::vector<Snapshot> snapshots;
    std::uint64_t bytes = 0;  ///< in the file
};

/// Reads and checks the table: whatever it answers is safe to compute with. With `wrong`, snapshots
/// whose L1 tables cannot be are told there, and come with none, instead of an error.
Task<SnapshotTable> read_snapshots(Node& file, Header header,
                                   std::vector<std::string>* wrong = nullptr);

std::vector<std::byte> serialise_snapshots(const std::vector<Snapshot>& snapshots);

}  // namespace strata::block::qcow2
