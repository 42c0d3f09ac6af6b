// SlotPacker: packs a file whose blocks lie in slots of one size, anywhere behind its tables: VDI,
// VHD, VHDX. Blocks of nothing but zeros lose their slots, the last blocks move into the gaps, the
// file ends behind what is left.
//
// The image is at rest meanwhile. A step: copies go into slots that nobody has | FLUSH | their
// entries of the table | FLUSH | the old slots are given back: the node's flush() is the middle of
// it. Entries are written whole, and a block's old slot keeps its content until the new one is
// named durably; so a crash leaves each block at one of two places that say the same. Which slots
// are free is read off the table, so another call goes on with what is left to move. The file is
// cut when the table names nothing behind the cut any more, durably.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "block/aligned_buffer.h"
#include "block/compact.h"
#include "block/node.h"

namespace strata::block {

/// How slots lie in a file.
struct SlotLayout {
    std::uint64_t bytes = 0;           ///< of a slot, with what goes with its block
    std::uint64_t base = 0, step = 1;  ///< slots begin at base and some steps
    std::uint64_t blocks = 0;          ///< of the disk
    /// Of the file, that are no slots: offset and length, in any order.
    std::vector<std::pair<std::uint64_t, std::uint64_t>> fixed{};
};

/// What a format does of it.
class SlotTable {
  public:
    virtual ~SlotTable() = default;
    /// Before all else; changes nothing.
    virtual Task<SlotLayout> slot_layout() = 0;
    /// Where the block's slot begins, if it has one. An entry that means nothing is an error.
    virtual Task<std::optional<std::uint64_t>> slot_of(std::uint64_t block) = 0;
    /// The table was found to be sound: the first changes. Nothing is dirty afterwards, and no
    /// entry keeps a place that it does not need.
    virtual Task<> begin_packing();
    /// What is in the slot reads as if there were none.
    virtual Task<bool> expendable(std::uint64_t slot) = 0;
    /// In memory: the block is at `slot` from now on; 0: it has none, and reads as zeros.
    virtual Task<> set_slot(std::uint64_t block, std::uint64_t slot) = 0;
    /// Before the content is copied: what else belongs to the slot.
    virtual Task<> copy_slot_head(std::uint64_t from, std::uint64_t to) = 0;
    /// Bytes of that, at the slot's start.
    [[nodiscard]] virtual std::uint64_t slot_head() const = 0;
    /// Nothing that is used lies behind `end`: the file ends there.
    virtual Task<> cut_file(std::uint64_t end) = 0;
};

class SlotPacker {
  public:
    SlotPacker(Node& node, SlotTable& table, CompactWatch watch);
    Task<CompactReport> run();

  private:
    struct Block {
        std::uint64_t slot = 0, index = 0;
    };
    struct Move {
        std::size_t block = 0;  ///< of blocks_
        std::uint64_t to = 0;
    };
    Task<> survey();
    [[nodiscard]] Result<> check_places() const;
    Task<> drop_zeroes();
    Task<> end_drops(std::vector<std::uint64_t>& dropped);
    [[nodiscard]] std::vector<std::pair<std::uint64_t, std::uint64_t>> gaps() const;
    [[nodiscard]] std::vector<Move> plan() const;
    Task<> move_blocks();
    Task<> copy(std::uint64_t from, std::uint64_t to);
    Task<> give_back(std::uint64_t slot);
    [[nodiscard]] std::uint64_t end() const;
    void advance(std::uint64_t bytes);

    Node& node_;
    Node& file_;
    SlotTable& table_;
    const CompactWatch watch_;
    SlotLayout layout_;
    std::vector<Block> blocks_;  ///< those that have slots, by their place
    CompactReport report_;
    Result<> stop_ = ok();  ///< an error: whoever watches wants no more
    AlignedBuffer buffer_;
};

/// True if [offset, offset + length) of `file` is nothing but zeros; holes are not read.
Task<bool> reads_as_zeros(Node& file, std::uint64_t offset, std::uint64_t length);

}  // namespace strata::block
