// VhdxNode: a table of 64-bit entries, each a state and a place; of differencing images bitmaps say
// which sectors are the parent's.
//
// New blocks are entered in the table in place, without the log: an entry of eight bytes is written
// whole or not at all, no change needs two of them, and MetaCache brings the data out first. So the
// log stays empty and clean.
#pragma once

#include <string>

#include "block/formats/common/slot_packer.h"
#include "block/formats/common/table_node.h"
#include "block/formats/vhdx/header.h"

namespace strata::block::vhdx {

class VhdxNode final : public TableNode, public Compactable, private SlotTable {
  public:
    struct Layout {
        Header header;
        Regions regions;
        Parameters parameters;
        bool replayed = false;  ///< opening brought its log into the file
    };
    VhdxNode(NodePtr file, std::string name, bool read_only, const Layout& layout, NodePtr backing);
    [[nodiscard]] std::string_view format() const override { return "vhdx"; }
    [[nodiscard]] const Header& header() const { return layout_.header; }
    Task<FormatInfo> info() override;
    /// A log that opening replayed counts as a corruption that was mended.
    Task<CheckReport> check(Repair repair) override;
    [[nodiscard]] bool finds_zeroes() const override { return !layout_.parameters.leave_allocated; }
    Task<CompactReport> pack_file(CompactWatch watch) override;

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override;
    Task<Reservation> reserve(std::uint64_t block, std::uint64_t count) override;
    Task<> publish(std::uint64_t block, const Reservation& reservation) override;
    Task<bool> publish_zero(std::uint64_t block) override;
    Task<> before_first_write() override;

  private:
    [[nodiscard]] std::uint64_t entry_offset(std::uint64_t entry) const {
        return layout_.regions.bat.offset + entry * 8;
    }
    [[nodiscard]] std::uint64_t payload_offset(std::uint64_t block) const {
        return entry_offset(layout_.parameters.payload_entry(block));
    }
    // Packing: blocks are slots of their own size.
    Task<SlotLayout> slot_layout() override;
    Task<std::optional<std::uint64_t>> slot_of(std::uint64_t block) override;
    Task<> begin_packing() override;
    Task<bool> expendable(std::uint64_t slot) override;
    Task<> set_slot(std::uint64_t block, std::uint64_t slot) override;
    [[nodiscard]] std::uint64_t slot_head() const override { return 0; }
    Task<> copy_slot_head(std::uint64_t from, std::uint64_t to) override;
    Task<> cut_file(std::uint64_t end) override;
    Task<> find_end();
    Task<> find_partial(std::uint64_t block, std::uint64_t within, std::uint64_t entry,
                        Place& place);
    Layout layout_;
    const std::uint64_t old_end_;
};

/// Writes `header` with the next sequence number over the one that does not hold, durably; it holds
/// from then on.
Task<> write_header(Node& file, Header& header);

}  // namespace strata::block::vhdx
