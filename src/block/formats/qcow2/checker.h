// Checker: counts who refers to each cluster of a qcow2 image, compares that with its refcounts and
// COPIED bits, and mends them.
//
// Each table is read once, however many snapshots share it. The image must be at rest: nothing
// dirty, no requests. Mending: first the COPIED bits that are wrongly set go, then refcounts are
// written, then COPIED bits that lack are set; a crash between leaves an image whose clusters are
// written in place only if they have one owner. While it mends, the dirty bit stands (version 3),
// so that whoever opens a half-mended image mends it first. Refcount blocks that are lost or
// damaged are made anew. Snapshots are made, applied and deleted with it as well: the tables
// change, the counts follow.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/endian.h"
#include "block/formats/qcow2/count_map.h"
#include "block/formats/qcow2/metadata.h"
#include "block/image_info.h"
#include "block/wording.h"

namespace strata::block::qcow2 {

class Checker {
  public:
    struct Table {
        std::uint64_t offset = 0, entries = 0;
    };
    Checker(Metadata& metadata, bool data_elsewhere)
        : metadata_(metadata), file_(metadata.file()), elsewhere_(data_elsewhere) {}
    /// A check that was asked for: the refcounts are built anew where QEMU does so, if its words
    /// are used.
    void imitate_peer() { peer_ = wording() == Wording::Qemu; }
    /// Table entries that cannot be are told and left as they are: what they meant is not for
    /// somebody to lose who asked for something else.
    void leave_entries() { leaves_entries_ = true; }
    /// With leave_entries(): EFBIG or EAGAIN for the first of them, 0 for none. QEMU's numbers, for
    /// a cluster that no refcount table reaches, or one behind the end.
    [[nodiscard]] int entry_errno() const { return entry_errno_; }
    /// An error if there are snapshots beside which nothing may be mended.
    Task<> check_snapshots();
    /// `extra`: L1 tables that nothing names yet.
    Task<CheckReport> run(Repair repair, std::vector<Table> extra);

  private:
    static constexpr std::size_t kMaxMessages = 200;
    struct L2 {
        std::uint64_t owners = 0;
        bool active = false;
    };
    struct Block {
        std::uint64_t host = 0;
        std::vector<std::byte> content;
    };
    [[nodiscard]] const Header& header() const { return metadata_.header(); }
    [[nodiscard]] std::uint64_t cluster() const { return header().cluster(); }
    /// Whether there is room for another message: texts are not made in vain.
    [[nodiscard]] bool listens() const;
    void tell(std::string text);
    void wrong(std::string_view text, bool mended);
    bool count(std::uint64_t offset, std::uint64_t bytes, std::uint64_t owners,
               std::string_view what);
    Task<> count_l1(std::vector<std::uint64_t> l1, bool active);
    Task<> count_file_tables(const std::vector<Table>& extra);
    Task<> count_bitmaps();
    Task<> count_l2(std::uint64_t host, L2 table);
    bool count_entry(std::uint64_t entry, std::uint64_t bitmap, const L2& table,
                     std::uint64_t host);
    std::size_t count_run(std::span<const Be64> words, const L2& table);
    [[nodiscard]] std::uint64_t mended_entry(std::uint64_t word, std::uint64_t bitmap) const;
    Task<> count_blocks();
    Task<> compare();
    void compare_block(std::uint64_t block, Block& content, bool& changed);
    Task<> fix_flags(bool setting, bool telling);
    Task<> fix_l2_flags(std::uint64_t host, bool setting, bool telling);
    Task<> write_blocks();
    Task<> add_uncounted(std::vector<std::uint64_t>& lost);
    void tell_rebuilt();
    void uncount_tables();
    /// The blocks with something in them, as indices; `first`: the cluster behind all others.
    Result<std::vector<std::uint64_t>> used_blocks(std::uint64_t& first) const;
    Task<> rebuild();
    Task<> mark_dirty(bool dirty);
    Task<> read_l2(std::uint64_t host);
    Task<std::vector<std::uint64_t>> read_words(std::uint64_t offset, std::uint64_t count);
    Task<> write_words(std::uint64_t offset, const std::vector<std::uint64_t>& words);
    [[nodiscard]] bool mends() const { return repair_ == Repair::All; }
    [[nodiscard]] bool mends_entries() const { return mends() && !leaves_entries_; }
    /// COPIED bits are safe to set right once all counts are: where there were leaks alone, too.
    [[nodiscard]] bool mends_flags() const {
        return mends() || (repair_ == Repair::Leaks && counts_right_);
    }

    Metadata& metadata_;
    Node& file_;
    const bool elsewhere_;
    Repair repair_ = Repair::Nothing;
    CheckReport report_;
    CountMap counts_;
    std::map<std::uint64_t, L2> l2_;
    std::vector<Be64> words_;           ///< the L2 table that is looked at
    std::vector<std::uint64_t> order_;  ///< L2 tables as they were met, the active disk's first
    std::uint64_t next_ = 0;            ///< where the next cluster would lie without a break
    std::vector<Block> blocks_;         ///< refcount blocks that change
    std::vector<std::string> repairs_;  ///< what compare() mends, to be told behind what it finds
    std::vector<std::uint64_t> freed_;  ///< clusters that nobody owns any more
    bool rebuild_ = false;
    bool peer_ = false, counts_right_ = false, leaves_entries_ = false;
    int entry_errno_ = 0;
    bool flags_lack_ = false, tables_mended_ = false;
};

}  // namespace strata::block::qcow2
