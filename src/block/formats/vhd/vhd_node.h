// VhdNode: a table of blocks, each behind a bitmap of the sectors that it really has; the others
// are the parent's, or zeros.
//
// The first write to a block fills it and sets its whole bitmap. The footer at the end of the file
// gives way to new blocks and is written anew by each flush; until then its copy at the start
// stands in. A bitmap reaches the file before the table refers to it. Fixed images are their file
// without the footer.
#pragma once

#include <string>
#include <vector>

#include "block/formats/common/slot_packer.h"
#include "block/formats/common/table_node.h"
#include "block/formats/vhd/header.h"

namespace strata::block::vhd {

/// Where a table says that blocks are.
struct SlotSurvey {
    std::uint64_t end = 0;      ///< of the last one
    std::uint64_t damaged = 0;  ///< those on the headers or the table, or past the file's end
    std::vector<std::string> messages{};  ///< about the first of them
};
Task<SlotSurvey> survey_slots(Node& file, const Footer& footer, const Header& header);

class VhdNode final : public TableNode, public Compactable, private SlotTable {
  public:
    struct Layout {
        Footer footer;
        Header header;  ///< of all but fixed images
        std::uint64_t size = 0;
        std::uint64_t end = 0;  ///< of what is used, without the footer
    };
    VhdNode(NodePtr file, std::string name, bool read_only, const Layout& layout, NodePtr backing);
    [[nodiscard]] std::string_view format() const override { return "vpc"; }
    [[nodiscard]] const Footer& footer() const { return footer_; }
    Task<FormatInfo> info() override;
    /// Finds blocks whose slots are not wholly in the file, or lie on its tables, too.
    Task<CheckReport> check(Repair repair) override;
    [[nodiscard]] bool finds_zeroes() const override { return !fixed(); }
    Task<CompactReport> pack_file(CompactWatch watch) override;

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override;
    Task<Reservation> reserve(std::uint64_t block, std::uint64_t count) override;
    Task<> publish(std::uint64_t block, const Reservation& reservation) override;
    Task<> write_tail() override;
    [[nodiscard]] std::uint64_t tail_bytes() const override { return fixed() ? 0 : kFooterBytes; }

  private:
    [[nodiscard]] bool fixed() const { return footer_.type == Type::Fixed; }
    [[nodiscard]] std::uint64_t entry_offset(std::uint64_t block) const {
        return header_.table_offset + block * 4;
    }
    // Packing: slots are a bitmap and a block.
    Task<SlotLayout> slot_layout() override;
    Task<std::optional<std::uint64_t>> slot_of(std::uint64_t block) override;
    Task<bool> expendable(std::uint64_t slot) override;
    Task<> set_slot(std::uint64_t block, std::uint64_t slot) override;
    [[nodiscard]] std::uint64_t slot_head() const override { return header_.bitmap_bytes(); }
    Task<> copy_slot_head(std::uint64_t from, std::uint64_t to) override;
    Task<> cut_file(std::uint64_t end) override;
    const Footer footer_;
    const Header header_;
    const std::uint64_t old_end_;
};

}  // namespace strata::block::vhd
