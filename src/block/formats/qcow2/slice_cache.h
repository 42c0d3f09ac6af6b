// SliceCache: L2 tables or refcount blocks in memory, in slices of 4 KiB, written back when told to.
//
// Dirty slices stay until write_back(): the order between tables is the owner's. Not for several threads at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"

namespace strata::block::qcow2 {

class SliceCache {
  public:
    /// Slices of `bytes` each; about `capacity` of them are kept.
    SliceCache(int fd, std::string name, std::size_t bytes, std::size_t capacity)
        : fd_(fd), name_(std::move(name)), bytes_(bytes), capacity_(capacity) {}

    /// The bytes of the slice at `host` in the file, valid until the next call.
    Result<std::byte*> load(std::uint64_t host);
    /// As load(), to be written back.
    Result<std::byte*> change(std::uint64_t host);
    /// A slice of zeros to be written back, whatever the file has.
    std::byte* fresh(std::uint64_t host);
    Result<> write_back();
    [[nodiscard]] std::size_t dirty() const { return dirty_; }
    [[nodiscard]] bool full_of_dirt() const { return dirty_ * 2 >= capacity_; }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }

  private:
    struct Slice {
        std::uint64_t host = 0;
        bool dirty = false;
        std::vector<std::byte> content;
    };
    using Place = std::list<Slice>::iterator;
    Place insert(std::uint64_t host);
    void make_room();
    void taint(Slice& slice);

    const int fd_;
    const std::string name_;
    const std::size_t bytes_, capacity_;
    std::list<Slice> slices_;  ///< the latest used first
    std::unordered_map<std::uint64_t, Place> places_;
    std::size_t dirty_ = 0;
};

}  // namespace strata::block::qcow2
