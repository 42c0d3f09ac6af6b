// CodeMemory: the bytes of translated code: one memfd mapped twice, writable here and executable
// there.
//
// No page is ever writable and executable at the same address. Pages of the memfd are allocated by
// the host when first written, so an unused rest of the cap costs nothing.
//
// The memory is a ring of regions. Each has a hot half, for what a block runs usually, and a cold
// one, for slow paths and stubs: hot code lies close together then, for the host's caches. Space is
// handed out in ascending order within the current region; when that is full the caller empties the
// next one, the oldest, and begins it anew. Where the host can, pages are huge, 2 MiB, made one by
// one as space is used: code is several times as large as the guest's, and small pages of it would
// miss in the instruction TLB. Threads: the owner serialises everything but patches, which are
// single atomic stores and may race with execution.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mmap_region.h"
#include "base/unique_fd.h"

namespace strata::engine::soft {

class CodeMemory {
  public:
    /// Reserves about `size` bytes, at least 1 MiB. Fails if the host forbids executable mappings
    /// of a memfd.
    static Result<std::unique_ptr<CodeMemory>> create(std::uint64_t size);

    /// Where code runs: addresses in translated code are base() + offset.
    [[nodiscard]] std::uint64_t base() const { return reinterpret_cast<std::uint64_t>(execute_); }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] bool contains(std::uint64_t address) const { return address - base() < size(); }

    [[nodiscard]] std::uint32_t regions() const {
        return static_cast<std::uint32_t>(size_ / region_size_);
    }
    [[nodiscard]] std::uint32_t current_region() const { return current_; }
    [[nodiscard]] std::uint32_t region_of(std::uint64_t offset) const {
        return static_cast<std::uint32_t>(offset / region_size_);
    }
    [[nodiscard]] bool is_cold(std::uint64_t offset) const {
        return offset % region_size_ >= region_size_ / 2;
    }
    /// Space for code of either kind in the current region.
    [[nodiscard]] std::uint64_t free() const {
        return std::min(hot_end() - hot_, hot_end() + region_size_ / 2 - cold_);
    }
    /// Goes on in region `index`, whatever it holds; but see keep().
    void begin_region(std::uint32_t index);
    /// What region 0 holds now stays when it begins anew.
    void keep() { kept_ = hot_; }

    /// The address at which the next write(), write_cold() will run, aligned to 16.
    [[nodiscard]] std::uint64_t next() const { return base() + hot_; }
    [[nodiscard]] std::uint64_t next_cold() const { return base() + cold_; }
    /// Appends code at next() and returns its address. The caller checked free().
    std::uint64_t write(std::span<const std::uint8_t> code);
    std::uint64_t write_cold(std::span<const std::uint8_t> code);
    /// Replaces four (eight, aligned) bytes at a code address; the bytes lie within one 64-byte
    /// line.
    void patch32(std::uint64_t address, std::uint32_t value);
    void patch64(std::uint64_t address, std::uint64_t value);

  private:
    CodeMemory() = default;
    /// The whole file at an address that huge pages need.
    Result<std::byte*> map_aligned(int protection, MmapRegion& space) const;
    [[nodiscard]] std::uint64_t hot_end() const {
        return current_ * region_size_ + region_size_ / 2;
    }
    /// Backs [at, at + size) of a half that ends at `end` with huge pages, where the host can.
    void use_huge_pages(std::uint64_t at, std::uint64_t size, std::uint64_t end);
    std::uint64_t append(std::uint64_t& at, std::span<const std::uint8_t> code, std::uint64_t end);

    UniqueFd fd_;
    MmapRegion write_space_, execute_space_;  ///< address space; the mappings lie in it
    std::byte* write_ = nullptr;
    std::byte* execute_ = nullptr;
    std::uint64_t size_ = 0;
    std::uint64_t region_size_ = 0;
    std::uint32_t current_ = 0;
    std::uint64_t hot_ = 0, cold_ = 0;  ///< offsets of the next code of either kind
    std::uint64_t kept_ = 0;            ///< bytes at the start of region 0 that stay
    std::vector<bool> huge_;            ///< by 2 MiB: the host was asked for a huge page
};

}  // namespace strata::engine::soft
