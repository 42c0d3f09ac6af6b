// BlockTable: which translated blocks exist, found by guest address, by host address, and by the
// RAM they were made from.
//
// A block is keyed by the RAM offset of its first byte, its linear address (constants in the code
// depend on it) and the mode word. A floating block serves every address that its page is mapped
// at: its code finds the page's linear address in TranslatorState::anchor, and what it has instead
// of linear addresses, here too, are distances from the page's start. Blocks live until their
// region of the code memory is taken: a killed block is only unlinked, so that a vCPU that still
// runs it comes to its end. Not thread-safe, but for BlockIndex::find(): the translator's lock
// guards it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/soft/cache/block_parts.h"
#include "engine/soft/cache/code_lines.h"
#include "engine/soft/cache/loop_windows.h"

namespace strata::engine::soft {

/// A block's place in the list of those made from a page. A page of a library has thousands, one
/// set for each address it is mapped at.
struct PagePlace {
    Block* next = nullptr;
    Block** link = nullptr;  ///< what points to the block
};

struct Block {
    std::uint64_t ram_offset = 0;
    std::uint64_t rip = 0;         ///< of a floating block its offset in the page
    std::uint64_t met_at = 0;      ///< of a floating block: the linear page it was first met at
    std::uint32_t key_mode = 0;    ///< mode word and variant bits
    std::uint32_t loop_entry = 0;  ///< for its own jump back: pages are not looked up
    std::uint64_t second_offset =
        0;  ///< RAM offset of the page that its only instruction reaches into; 0: none
    std::uint16_t guest_length = 0;  ///< 0: the first instruction is the interpreter's
    FlagsPlace entry_flags = FlagsPlace::Dead;
    bool dead = false;
    bool checked = false;  ///< it compares what it was made from each time it runs: no store needs
                           ///< to kill it
    std::uint32_t checks_left = 0;          ///< counted down by its code
    std::uint32_t code = 0, code_size = 0;  ///< offset and size in the code memory
    std::uint32_t cold = 0, cold_size = 0;  ///< of what stands apart
    // Offsets of the thunks before the block, 0 until somebody needs them.
    std::atomic<std::uint32_t> indirect_entry{
        0};  ///< checks mode, request and page; flags in memory. Read without the lock
    std::uint32_t guard_entry = 0;       ///< checks the page; flags in memory
    std::uint32_t host_guard_entry = 0;  ///< checks the page; flags in host RFLAGS
    std::uint32_t load_entry = 0;        ///< flags from memory to host
    std::uint32_t save_entry = 0;        ///< flags from host to memory
    std::uint32_t return_entry = 0;      ///< flags from either place to where the block wants them
    std::uint64_t executions = 0;        ///< counted by its code, if at all
    std::unique_ptr<LoopWindows> loop;   ///< its code refers to it
    BlockParts parts;                    ///< set when its code has been made
    Exit* incoming = nullptr;
    std::atomic<Block*> next_in_bucket{nullptr};
    PagePlace in_page, in_second;  ///< of ram_offset's page, of second_offset's

    /// A variant bit. The code works at any linear address of its page.
    static constexpr std::uint32_t kFloating = 1U << 29U;
    [[nodiscard]] bool floating() const { return (key_mode & kFloating) != 0; }
    /// The linear address of what the block knows as `rip`, when it runs or has just run with
    /// `anchor`.
    [[nodiscard]] std::uint64_t linear(std::uint64_t value, std::uint64_t anchor) const {
        return floating() ? value + anchor : value;
    }
    /// It is in the list of another page than ram_offset's, too. A guest may map one page twice in
    /// a row.
    [[nodiscard]] bool in_two_pages() const {
        return second_offset != 0 && second_offset >> 12 != ram_offset >> 12;
    }
    /// Bytes that it was made from: in the page of ram_offset, and from second_offset on.
    [[nodiscard]] std::uint64_t bytes_in_first() const;
    [[nodiscard]] std::uint64_t bytes_in_second() const;
    /// The lines of `page` (a RAM page number) that it was made from.
    [[nodiscard]] std::uint64_t lines_in(std::uint64_t page) const;
    [[nodiscard]] bool made_from(std::uint64_t offset, std::uint64_t length) const;
    /// The mark that host code offset `at` (of the code memory) belongs to.
    [[nodiscard]] InsnMark mark_at(std::uint32_t at) const;
    /// The exit whose stub returns to `at`, or null.
    [[nodiscard]] Exit* exit_at(std::uint32_t at);
};

/// The blocks that are alive by guest address. One thread at a time changes it; find() runs beside
/// that on any vCPU's thread that is not at a safe point, since blocks are freed only while all
/// are. Inline: it is called from code for general registers only.
class BlockIndex {
  public:
    BlockIndex() : buckets_(std::make_unique<std::atomic<Block*>[]>(kBuckets)) {}

    [[nodiscard]] Block* find(std::uint64_t ram_offset, std::uint64_t rip,
                              std::uint32_t key_mode) const {
        Block* block = buckets_[bucket(ram_offset, rip)].load(std::memory_order_acquire);
        while (block != nullptr && (block->ram_offset != ram_offset || block->rip != rip ||
                                    block->key_mode != key_mode)) {
            block = block->next_in_bucket.load(std::memory_order_acquire);
        }
        return block;
    }
    void insert(Block& block);
    /// The block keeps its link, so that a reader that stands on it goes on.
    void remove(const Block& block);

  private:
    // A compiler makes 200000 blocks; each further node of a chain costs a miss in the data cache.
    static constexpr unsigned kBucketBits = 18;
    static constexpr std::size_t kBuckets = 1U << kBucketBits;
    static std::size_t bucket(std::uint64_t ram_offset, std::uint64_t rip) {
        return ((ram_offset ^ (rip >> 12) * 0x9e3779b97f4a7c15ULL) * 0x9e3779b97f4a7c15ULL) >>
               (64 - kBucketBits);
    }
    std::unique_ptr<std::atomic<Block*>[]> buckets_;
};

class BlockTable {
  public:
    explicit BlockTable(CodeLines lines);
    ~BlockTable();
    BlockTable(const BlockTable&) = delete;
    BlockTable& operator=(const BlockTable&) = delete;

    /// Outlives every reader; see BlockIndex.
    [[nodiscard]] const BlockIndex& index() const { return index_; }
    [[nodiscard]] const CodeLines& lines() const { return lines_; }
    /// `region`: of the code memory, where its code is; behind that of the blocks that were
    /// inserted for the region before.
    Block& insert(std::unique_ptr<Block> block, std::uint32_t region);
    /// The block whose code holds offset `at` of the code memory, in `region`, in its cold half or
    /// not; dead ones too.
    [[nodiscard]] Block* locate(std::uint32_t region, std::uint32_t at, bool cold) const;
    /// Takes blocks made from any byte of [offset, +length) out of the table and returns them (in
    /// `killed`).
    void remove(std::uint64_t offset, std::uint64_t length, std::vector<Block*>& killed);
    /// Takes one out.
    void remove(Block& block);
    /// Checked blocks do not count.
    [[nodiscard]] bool page_has_blocks(std::uint64_t ram_page) const {
        return pages_.contains(ram_page);
    }
    /// Takes the blocks of a region out of the table. They keep their links.
    std::vector<std::unique_ptr<Block>> take(std::uint32_t region);
    [[nodiscard]] const std::vector<std::vector<std::unique_ptr<Block>>>& regions() const {
        return regions_;
    }
    [[nodiscard]] bool empty(std::uint32_t region) const {
        return region >= regions_.size() || regions_[region].empty();
    }

  private:
    static PagePlace& place_in(Block& block, std::uint64_t page);
    void link(Block& block, std::uint64_t page);
    void unlink(Block& block, std::uint64_t page);
    /// Takes it out of all indexes.
    void detach(Block& block);
    BlockIndex index_;
    CodeLines lines_;
    std::unordered_map<std::uint64_t, Block*> pages_;
    std::vector<std::vector<std::unique_ptr<Block>>>
        regions_;  ///< each ascending by offset of hot, and of cold code
    /// Where the code of each of them begins, side by side for locate(): hot, cold.
    std::vector<std::array<std::vector<std::uint32_t>, 2>> starts_;
};

}  // namespace strata::engine::soft
