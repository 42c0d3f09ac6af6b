// StealClock: how long a vCPU's thread was ready to run while the host ran others, and the guest's
// page that says so.
//
// The kernel counts it in /proc/self/task/TID/schedstat (second field). The file is opened before
// the process gives up the file system.
#pragma once

#include <cstdint>

#include "base/unique_fd.h"
#include "memory/guest_ram.h"

namespace strata::engine::soft {

class StealClock {
  public:
    /// From now on for the calling thread. Without schedstat in the kernel nothing is ever stolen.
    void open_for_this_thread() noexcept;
    /// Nanoseconds stolen since the last call or the opening.
    [[nodiscard]] std::uint64_t take() noexcept;

  private:
    [[nodiscard]] std::uint64_t waited() const noexcept;

    UniqueFd file_;
    std::uint64_t taken_ = 0;
};

/// Adds to `steal` of the struct kvm_steal_time at `ram_offset` (64 bytes, aligned to them), with
/// its version odd meanwhile.
void add_steal(memory::GuestRam& ram, std::uint64_t ram_offset, std::uint64_t nanoseconds) noexcept;

}  // namespace strata::engine::soft
