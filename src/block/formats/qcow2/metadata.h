// Metadata: the tables of an open qcow2 image: guest cluster to host cluster, refcounts,
// allocation, and the order of writing.
//
// Changes gather in memory and reach the file in rounds (write_back(), called for every flush of
// the guest's and when much has gathered). A round writes a snapshot of all that is dirty when it
// starts:
//     refcount blocks | FLUSH (with all data) | refcount table | FLUSH | L2 tables | FLUSH | L1
//     table | FLUSH
// where a phase with nothing to write goes without its flush. Why a crash at any moment leaves at
// worst leaked clusters:
// 1. An L2 entry enters the tables in memory only when its cluster's refcount is raised in memory
// and its data was written. The
//    snapshot is taken under the locks of allocation and of L2 tables, so every entry in it has its
//    refcount in it; both and the data are durable (first FLUSH) before the L2 tables are written.
//    So no entry on disk names a cluster that is free or unwritten.
// 2. An L1 entry is written after the L2 table that it names, and that table's refcount, are
// durable. A refcount table entry, after
//    its block is; a new refcount table is complete and durable before the header names it.
// 3. A reference that was taken away (overwritten, discarded, zeroed) gives its cluster back only
// after the round that
//    made its absence durable, and after every request that started before then has ended. Till
//    then its refcount stands, on disk and in memory: no cluster has two owners at any moment of
//    the file's life, and no late transfer meets a new owner.
// 4. Holes are punched between (3) and the fall of the refcount in memory, so before the cluster
// can be handed out again. A tear inside one table write leaves each entry old or new (entries do
// not straddle sectors); both are covered by 1 to 3. What fails in a round is dirty again and goes
// with the next.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/slice_cache.h"

namespace strata::block::qcow2 {

inline constexpr std::uint64_t kCopied = 1ULL << 63, kCompressed = 1ULL << 62, kZeroFlag = 1;
inline constexpr std::uint64_t kOffsetMask = 0x00FFFFFFFFFFFE00ULL;

/// What an L2 entry says.
struct Mapping {
    enum class Kind : std::uint8_t { Unallocated, Zero, Normal, Compressed };
    Kind kind = Kind::Unallocated;
    std::uint64_t host =
        0;  ///< of the cluster, or of the compressed bytes; 0: none (a Zero may have one)
    std::uint32_t length = 0;               ///< Compressed: at most so many bytes
    bool copied = false;                    ///< the cluster has this owner alone
    std::uint32_t allocated = 0, zero = 0;  ///< extended L2: bits of the 32 subclusters
};

/// An L2 entry to be.
struct Entry {
    std::uint64_t word = 0;
    std::uint64_t bitmap = 0;  ///< extended L2
};

/// Clusters handed out, one behind the other.
struct Allocation {
    std::uint64_t host = 0;
    std::uint64_t clusters = 0;
    bool zeroed = false;  ///< the file's end: reads as zeros
};

class Metadata {
  public:
    /// `lenient`: tables past the end of the file read as zeros (for checks).
    static Task<std::unique_ptr<Metadata>> load(Node& file, Header header, bool discard,
                                                bool lenient);

    [[nodiscard]] const Header& header() const { return header_; }
    [[nodiscard]] Header& header() { return header_; }
    [[nodiscard]] std::vector<std::uint64_t>& l1() { return l1_; }
    [[nodiscard]] std::vector<std::uint64_t>& refcount_table() { return table_; }
    /// Of the file, rounded up to clusters.
    [[nodiscard]] std::uint64_t end() const { return end_; }
    [[nodiscard]] Node& file() const { return file_; }
    [[nodiscard]] Error corrupt(std::string_view what) const;

    /// Answers at once if the table is in memory; false: await look_up().
    bool look_up_now(std::uint64_t guest, Result<Mapping>& out);
    Task<Mapping> look_up(std::uint64_t guest);
    /// How many clusters from `guest` on, of at most `most`, are as the first one, side by side or
    /// nowhere, as far as a look at memory tells: at least 1.
    [[nodiscard]] std::uint64_t run_now(std::uint64_t guest, std::uint64_t most);
    /// Same, of an L2 entry's two words.
    Result<Mapping> decode(std::uint64_t entry, std::uint64_t bitmap, std::uint64_t guest) const;
    /// Makes the cluster at `guest` what `entry` says; the caller frees what was there before with
    /// release().
    Task<> set(std::uint64_t guest, Entry entry);

    /// Sees to the table for `guest`: before its first data clusters are handed out, so that it
    /// lies before them in the file.
    Task<> prepare(std::uint64_t guest);
    /// As set() for up to `count` clusters that lie side by side, `first` being the first one's
    /// entry; answers how many were set: those of one table slice.
    Task<std::uint64_t> set_run(std::uint64_t guest, Entry first, std::uint64_t count);

    /// 1 to `wanted` free clusters, whose refcount is 1 now.
    Task<Allocation> allocate(std::uint64_t wanted);
    /// Exactly `clusters`, one behind the other.
    Task<std::uint64_t> allocate_table(std::uint64_t clusters);
    /// A place for `bytes` of compressed data, counted for one owner.
    Task<std::uint64_t> allocate_packed(std::uint64_t bytes);
    /// Undoes an allocation that nothing refers to.
    Task<> give_back(std::uint64_t host, std::uint64_t clusters);
    /// Drops what `mapping` refers to once that is safe.
    void release(const Mapping& mapping);
    void release(std::uint64_t host, std::uint64_t clusters);
    Task<std::uint64_t> refcount(std::uint64_t cluster_index);
    /// Adds `delta` to the refcount; an increase must be written back before what refers to it.
    Task<> change_refcount(std::uint64_t cluster_index, int delta);
    [[nodiscard]] std::uint64_t max_refcount() const;

    /// Too much has gathered: write_back() is due.
    [[nodiscard]] bool loaded() const;
    /// Everything completed before the call is durable afterwards.
    Task<> write_back();
    /// Lowers the refcounts of what has been released and is safe to free.
    Task<> free_released();
    [[nodiscard]] bool has_released() const { return !pending_.empty() || !retired_.empty(); }
    /// Writes fields of the header, in order with nothing: the caller flushes.
    Task<> write_header_field(std::uint64_t offset, std::span<const std::byte> bytes);
    /// Takes the L2 tables from this L1 index on out of the tables.
    void drop_l2_tables(std::uint64_t first);
    /// The tables changed in the file: forgets what was read of them. Nothing may be dirty.
    void forget_everything();
    /// Makes a table that is complete in the file the image's refcount table.
    Task<> take_refcount_table(std::uint64_t offset, std::vector<std::uint64_t> table);
    /// Refcounts of 1 << `order` bits from now on. Nothing may be dirty. A crash leaves the old
    /// ones or the new ones.
    Task<> change_refcount_width(unsigned order);
    /// Writes everything back, and what was released last as well. No requests may be under way.
    Task<> settle();

    /// A request under way: clusters released from now on are not reused before it has ended.
    class [[nodiscard]] Passage {
      public:
        explicit Passage(Metadata& metadata) : metadata_(metadata), epoch_(metadata.epoch_) {
            ++metadata_.passages_.back();
        }
        Passage(const Passage&) = delete;
        Passage& operator=(const Passage&) = delete;
        ~Passage() { --metadata_.passages_[epoch_ - metadata_.first_epoch_]; }

      private:
        Metadata& metadata_;
        const std::uint64_t epoch_;
    };

  private:
    friend class Checker;
    friend class Compactor;
    struct Retired {
        std::uint64_t epoch = 0;
        std::vector<std::uint64_t> clusters;
    };
    Metadata(Node& file, Header header, bool discard);
    [[nodiscard]] bool forbidden(std::uint64_t host, std::uint64_t clusters = 1) const;
    Task<std::vector<std::uint64_t>> read_table(std::uint64_t offset, std::uint64_t entries);
    using Entries = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  ///< index and value
    static Entries take(std::set<std::uint64_t>& dirty, const std::vector<std::uint64_t>& table);
    Task<> write_entries(std::uint64_t table, const Entries& entries);
    Task<> write_whole_table(std::uint64_t offset);
    Result<std::uint64_t> l2_table(std::uint64_t guest) const;
    Task<std::uint64_t> own_l2_table(std::uint64_t guest);
    Task<> set_refcount(std::uint64_t index, std::uint64_t value);
    std::uint64_t take_free(std::uint64_t index, std::uint64_t most);
    std::uint64_t skip_used(std::uint64_t index);
    std::byte* counts_now(std::uint64_t index, std::uint64_t& place);
    Task<> ensure_block(std::uint64_t block);
    Task<> grow_table(std::uint64_t entries);
    Task<bool> is_free(std::uint64_t index);
    Task<Allocation> allocate_locked(std::uint64_t wanted);
    Task<> free_retired();
    void leave_packed(std::uint64_t index);
    // Another width (refcount_width.cc)
    struct WidthPlan {
        std::set<std::uint64_t> blocks;  ///< those that are needed
        std::uint64_t first = 0;         ///< cluster where the structure goes: blocks, then table
        std::uint64_t per_block = 0, table_clusters = 0;
        [[nodiscard]] std::uint64_t total() const { return blocks.size() + table_clusters; }
    };
    [[nodiscard]] std::set<std::uint64_t> refcount_clusters() const;
    Task<std::vector<std::uint64_t>> counts_of(std::uint64_t block,
                                               const std::set<std::uint64_t>& own);
    Task<WidthPlan> plan_width(unsigned order, const std::set<std::uint64_t>& own);
    Task<> write_wider_block(const WidthPlan& plan, unsigned order, std::uint64_t block,
                             std::uint64_t host, const std::set<std::uint64_t>& own);
    Task<> punch(const std::vector<std::uint64_t>& freed);
    Task<> write_round();

    Node& file_;
    Header header_;
    const bool data_elsewhere_;  ///< data clusters lie in another file and have no refcounts
    const bool discard_;
    const bool zero_end_;  ///< what the file grows by reads as zeros
    std::uint64_t end_;
    std::vector<std::uint64_t> l1_, table_;
    std::set<std::uint64_t> l1_dirty_;
    std::set<std::uint64_t> table_dirty_;
    SliceCache l2_, refcounts_;
    AsyncMutex tables_, allocation_, round_;  ///< taken in this order, round_ first
    std::uint64_t asked_ = 0, written_ = 0;   ///< rounds
    std::uint64_t cursor_ = 0;                ///< no free cluster below
    std::uint64_t packed_ = 0;            ///< where the next compressed cluster may go; 0: nowhere
    std::vector<std::uint64_t> pending_;  ///< released since the last round began
    std::deque<Retired> retired_;         ///< released durably
    std::uint64_t epoch_ = 0, first_epoch_ = 0;
    std::deque<unsigned> passages_{0};  ///< requests under way by epoch, from first_epoch_ on
};

}  // namespace strata::block::qcow2
