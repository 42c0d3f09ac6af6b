// StubFilter: the system call filters of a stub process's two threads, as the kernel takes them.
#pragma once

#include <cstdint>
#include <span>

#include "engine/soft/direct/stub_layout.h"

namespace strata::engine::soft {

/// Of the thread that runs guest code: from three places of the stub's code, with these very
/// arguments, it may wake the VMM, wait for the gate and unblock its signals. Everything else, from
/// wherever, raises SIGSYS: that is how the guest's own system calls arrive. Returns the
/// instructions written.
std::uint32_t write_guest_filter(std::uint64_t base,
                                 std::span<std::uint64_t, kStubFilterWords> out);
/// Of the helper: mmap, munmap and futex from the stub's code; anything else ends the process.
std::uint32_t write_helper_filter(std::uint64_t base,
                                  std::span<std::uint64_t, kStubFilterWords> out);

/// Of both, in front of theirs: what they wait by becomes a notification of their VMM, which learns
/// from the kernel that they do wait, and lets them go.
std::uint32_t write_notifying_filter(std::uint64_t base,
                                     std::span<std::uint64_t, kStubFilterWords> out);

}  // namespace strata::engine::soft
