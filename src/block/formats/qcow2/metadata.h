// Metadata: the tables of an open qcow2 image: guest cluster to host cluster, refcounts, allocation, and the order of writing.
//
// Changes gather in memory and reach the file in write_back(), so that a crash leaves at worst leaked clusters: data and
// refcounts, then L2 tables, then the L1 table, each durable before the next. What a change lets go is freed only when the
// tables without it are durable: no cluster has two owners at any moment of the file's life.
// Not for several threads at a time.
#pragma once

#include <cstdint>
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
    std::uint64_t host = 0;    ///< of the cluster, or of the compressed bytes; 0: none (a Zero may have one)
    std::uint32_t length = 0;  ///< Compressed: at most so many bytes
    bool copied = false;       ///< the cluster has this owner alone
    std::uint32_t allocated = 0, zero = 0;  ///< extended L2: bits of the 32 subclusters
};

class Metadata {
  public:
    static Result<std::unique_ptr<Metadata>> load(int fd, std::string name, Header header, std::uint64_t file_bytes);

    [[nodiscard]] const Header& header() const { return header_; }
    [[nodiscard]] std::span<const std::uint64_t> l1() const { return l1_; }
    [[nodiscard]] std::span<const std::uint64_t> refcount_table() const { return table_; }
    [[nodiscard]] std::uint64_t end() const { return end_; }

    Result<Mapping> look_up(std::uint64_t guest);
    /// Same, of an L2 entry's two words.
    Result<Mapping> decode(std::uint64_t entry, std::uint64_t bitmap, std::uint64_t guest) const;
    /// Makes the cluster at `guest` what `entry` says; the caller frees what was there before with release().
    Result<> set(std::uint64_t guest, std::uint64_t entry, std::uint64_t bitmap);
    /// The host offset of a free cluster, whose refcount is 1 now.
    Result<std::uint64_t> allocate();
    /// Undoes an allocate() whose cluster nothing refers to.
    Result<> give_back(std::uint64_t host);
    /// Drops what `mapping` refers to once that is safe.
    void release(const Mapping& mapping);
    Result<std::uint64_t> refcount(std::uint64_t cluster_index);
    /// Too much has gathered: write_back() is due.
    [[nodiscard]] bool loaded() const;
    Result<> write_back();

  private:
    Metadata(int fd, std::string name, Header header, std::uint64_t file_bytes);
    [[nodiscard]] Error corrupt(std::string_view what) const;
    [[nodiscard]] bool forbidden(std::uint64_t host) const;
    Result<std::vector<std::uint64_t>> read_table(std::uint64_t offset, std::uint64_t entries);
    Result<> write_table(std::uint64_t offset);
    Result<std::uint64_t> l2_table(std::uint64_t guest, bool writing);
    Result<std::uint64_t> new_l2_table(std::uint64_t old);
    Result<> set_refcount(std::uint64_t index, std::uint64_t value);
    Result<> ensure_block(std::uint64_t block);
    Result<> grow_table(std::uint64_t entries);
    Result<> free_pending();
    Result<> write_l1();

    const int fd_;
    const std::string name_;
    Header header_;
    std::uint64_t end_;  ///< of the file, rounded up to clusters
    std::vector<std::uint64_t> l1_, table_;
    std::set<std::uint64_t> l1_dirty_;
    bool table_dirty_ = false;
    SliceCache l2_, refcounts_;
    std::uint64_t cursor_ = 0;            ///< no free cluster below
    std::vector<std::uint64_t> pending_;  ///< clusters to drop
};

}  // namespace strata::block::qcow2
