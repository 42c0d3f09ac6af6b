// SliceCache: L2 tables or refcount blocks in memory, in slices of 4 KiB, written back when told
// to.
//
// Dirty slices, and those being written, stay; the order between tables is the owner's. A pointer
// to a slice's bytes is good until the next await or call that may insert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <set>
#include <unordered_map>
#include <vector>

#include "block/node.h"
#include "block/sync.h"

namespace strata::block::qcow2 {

class SliceCache {
  public:
    /// Slices of `bytes` each; about `capacity` of them are kept.
    SliceCache(Node& file, std::size_t bytes, std::size_t capacity)
        : file_(file),
          bytes_(bytes),
          capacity_(capacity),
          loaded_(file.loop()),
          order_(file.loop()) {}

    /// The bytes of the slice at `host` in the file, if it is here; null if not.
    std::byte* find(std::uint64_t host);
    Task<std::byte*> load(std::uint64_t host);
    /// Marks the slice at `host`, which is here, as to be written back.
    void taint(std::uint64_t host);
    /// A slice of zeros to be written back, whatever the file has.
    std::byte* fresh(std::uint64_t host);
    /// Forgets [host, host + length), written or not: nothing refers to it any more.
    void forget(std::uint64_t host, std::uint64_t length);
    /// Forgets everything; nothing may be dirty or being written.
    void clear();

    /// What was dirty at some moment, on its way to the file.
    struct Batch {
        struct Piece {
            std::uint64_t host = 0;
            std::vector<std::byte> content;
        };
        std::vector<Piece> pieces;  ///< by host offset
    };
    /// Copies what is dirty; it counts as clean then, and is kept until write() has ended.
    Batch take_dirty();
    /// Writes a batch, after those taken before it; what could not be written is dirty again.
    Task<> write(Batch batch);
    /// Gives up writing a batch: all of it is dirty again.
    void put_back(const Batch& batch);

    [[nodiscard]] std::size_t dirty() const { return dirty_; }
    [[nodiscard]] bool full_of_dirt() const { return dirty_ * 4 >= capacity_; }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }

  private:
    struct Slice {
        std::uint64_t host = 0;
        bool dirty = false;
        unsigned writing = 0;
        std::vector<std::byte> content;
    };
    using Place = std::list<Slice>::iterator;
    Place insert(std::uint64_t host);
    void make_room();
    void taint(Slice& slice);
    Task<> write_run(const Batch& batch, std::size_t first, std::size_t count);

    Node& file_;
    const std::size_t bytes_, capacity_;
    std::list<Slice> slices_;  ///< the latest used first
    std::unordered_map<std::uint64_t, Place> places_;
    std::size_t dirty_ = 0;
    std::set<std::uint64_t> loading_;
    WaitQueue loaded_;
    AsyncMutex order_;  ///< of batches
};

}  // namespace strata::block::qcow2
