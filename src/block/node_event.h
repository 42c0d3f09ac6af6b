// NodeEvent: moments in a node's work that fault injection and tests can act upon.
//
// A node tells the layer below of them (Node::note()); most nodes take no notice. The names are
// those of QEMU's blkdebug, so that its configurations serve here; formats tell of those events
// that they have.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace strata::block {

enum class NodeEvent : std::uint8_t {
    L1Update,
    L1GrowAllocTable,
    L1GrowWriteTable,
    L1GrowActivateTable,
    L2Load,
    L2Update,
    L2UpdateCompressed,
    L2AllocCowRead,
    L2AllocWrite,
    ReadAio,
    ReadBackingAio,
    ReadCompressed,
    WriteAio,
    WriteCompressed,
    VmStateLoad,
    VmStateSave,
    CowRead,
    CowWrite,
    RefTableLoad,
    RefTableGrow,
    RefTableUpdate,
    RefBlockLoad,
    RefBlockUpdate,
    RefBlockUpdatePart,
    RefBlockAlloc,
    RefBlockAllocHookup,
    RefBlockAllocWrite,
    RefBlockAllocWriteBlocks,
    RefBlockAllocWriteTable,
    RefBlockAllocSwitchTable,
    ClusterAlloc,
    ClusterAllocBytes,
    ClusterFree,
    FlushToOs,
    FlushToDisk,
    PwritevRmwHead,
    PwritevRmwAfterHead,
    PwritevRmwTail,
    PwritevRmwAfterTail,
    Pwritev,
    PwritevZero,
    PwritevDone,
    EmptyImagePrepare,
    L1ShrinkWriteTable,
    L1ShrinkFreeL2Clusters,
    CorWrite,
    ClusterAllocSpace,
    None,  ///< the opening of whoever listens
};

inline constexpr std::array<std::string_view, 48> kNodeEventNames = {
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
};
static_assert(kNodeEventNames.size() == static_cast<std::size_t>(NodeEvent::None) + 1);

/// Nothing: no event has that name.
[[nodiscard]] constexpr std::optional<NodeEvent> find_event(std::string_view name) {
    for (std::size_t at = 0; at < kNodeEventNames.size(); ++at) {
        if (kNodeEventNames[at] == name) {
            return static_cast<NodeEvent>(at);
        }
    }
    return std::nullopt;
}

}  // namespace strata::block
