// CodeMemory: the bytes of translated code: one memfd mapped twice, writable here and executable there.
//
// No page is ever writable and executable at the same address. Pages of the memfd are allocated by the host when first
// written, so an unused rest of the cap costs nothing. Space is handed out in ascending order until it is reset as a whole.
// Threads: the owner serialises allocate(), write() and reset(); patches are single atomic stores and may race with execution.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/mmap_region.h"
#include "base/unique_fd.h"

namespace strata::engine::soft {

class CodeMemory {
  public:
    /// Reserves `size` bytes (a multiple of the page size). Fails if the host forbids executable mappings of a memfd.
    static Result<std::unique_ptr<CodeMemory>> create(std::uint64_t size);

    /// Where code runs: addresses in translated code are base() + offset.
    [[nodiscard]] std::uint64_t base() const { return reinterpret_cast<std::uint64_t>(execute_.data()); }
    [[nodiscard]] std::uint64_t size() const { return execute_.size(); }
    [[nodiscard]] std::uint64_t used() const { return used_; }
    [[nodiscard]] std::uint64_t free() const { return size() - used_; }
    [[nodiscard]] bool contains(std::uint64_t address) const { return address - base() < size(); }
    /// The address at which the next write() will run, aligned to 16.
    [[nodiscard]] std::uint64_t next() const { return base() + used_; }

    /// Appends code at next() and returns its address. The caller checked free().
    std::uint64_t write(std::span<const std::uint8_t> code);
    /// Replaces four (eight, aligned) bytes at a code address; the bytes lie within one 64-byte line.
    void patch32(std::uint64_t address, std::uint32_t value);
    void patch64(std::uint64_t address, std::uint64_t value);
    /// Frees everything from `offset` on.
    void reset(std::uint64_t offset) { used_ = offset; }

  private:
    CodeMemory() = default;
    UniqueFd fd_;
    MmapRegion write_, execute_;
    std::uint64_t used_ = 0;
};

}  // namespace strata::engine::soft
