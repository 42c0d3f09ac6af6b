// SnapshotTable: the internal snapshots of a qcow2 image as they stand in its file.
//
// It has at most 65536 entries, 64 MiB, and 1 KiB of extra data in each. A longer one is refused,
// but to a repair, which keeps what lies within these limits.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
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
    /// Why its L1 table cannot be: it must not be read. Empty: it can.
    std::string fault{};
    /// Version 3 wants the long size of the VM state and the disk's size, which the entry lacks.
    bool incomplete = false;
};

struct SnapshotTable {
    std::vector<Snapshot> snapshots;
    std::uint64_t bytes = 0;  ///< in the file
    // What a lenient reading left out, for a repair.
    std::uint32_t overhanging = 0;  ///< entries at the end, for the table is too long
    std::vector<std::pair<std::uint32_t, std::uint32_t>>
        cut;  ///< entry, and its bytes of extra data: more than are kept
};

enum class SnapshotReading : std::uint8_t {
    Sound,     ///< all must be as it should
    FaultyL1,  ///< snapshots may have L1 tables that cannot be
    Lenient,   ///< and the table may be too long: for a repair
};

/// Reads and checks the table: whatever it answers is safe to compute with.
Task<SnapshotTable> read_snapshots(Node& file, Header header,
                                   SnapshotReading reading = SnapshotReading::Sound);

std::vector<std::byte> serialise_snapshots(const std::vector<Snapshot>& snapshots);

}  // namespace strata::block::qcow2
