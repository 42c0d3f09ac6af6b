// GuestTables: a look at the guest's page tables without touching them: what a stub may map beside
// the page that was asked for.
//
// The MMU's walk (mmu/page_walk.cc) stays the only one that decides faults and sets A and D bits;
// what is read here is taken only if those bits are set already, at every level, so that it may
// have been in a processor's TLB. Four levels (long mode); anything unusual reads as absent.
#pragma once

#include <cstdint>

#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// One page as user code may see it now.
struct GuestPage {
    bool present = false;   ///< and user's, and accessed, and in RAM
    bool writable = false;  ///< and dirty
    bool executable = false;
    bool dirty = false;  ///< it has been written to by this address, if not lately
    std::uint64_t ram_page = 0;
};

/// The 2 MiB around an address.
class GuestRegion {
  public:
    GuestRegion(const CpuState& cpu, std::uint64_t linear) noexcept;
    /// Whether anything at all is there.
    [[nodiscard]] bool absent() const { return kind_ == Kind::Absent; }
    /// Nothing is there, not even pages that were never accessed.
    [[nodiscard]] bool empty() const { return empty_; }
    [[nodiscard]] bool large() const { return kind_ == Kind::Large; }
    /// large(), and of a 1 GiB page.
    [[nodiscard]] bool huge() const { return huge_; }
    [[nodiscard]] GuestPage page(std::uint64_t index) const noexcept;

  private:
    enum class Kind : std::uint8_t { Absent, Table, Large };
    [[nodiscard]] bool read(std::uint64_t physical, std::uint64_t& entry) const noexcept;
    [[nodiscard]] GuestPage from(std::uint64_t leaf, std::uint64_t physical) const noexcept;

    const CpuState& cpu_;
    Kind kind_ = Kind::Absent;
    bool empty_ = true;
    bool huge_ = false;
    std::uint64_t allowed_ = 0;  // what all levels above allow
    bool no_execute_ = false;
    std::uint64_t leaf_ = 0;                  // of a large page
    std::uint64_t physical_ = 0;              // of a large page: the region's first byte
    const std::uint64_t* entries_ = nullptr;  // of a table
};

}  // namespace strata::engine::soft
