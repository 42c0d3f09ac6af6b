// StubLayout: the area that a stub process keeps for itself among the guest's addresses, as the VMM
// maps it too.
//
// One page of code (stub_code.S, which repeats these numbers), then `orders`: written by the VMM,
// read-only in the stub; then `reports` and the signal stack: writable there, so that guest code
// may have forged all of it. Lies at an address where the guest has nothing (direct_runner.cc).
#pragma once

#include <cstddef>
#include <cstdint>

#include "arch/x86/arch_state.h"

namespace strata::engine::soft {

/// What the helper thread does: mmap of the RAM file with these arguments, or munmap if `flags` is
/// 0.
struct StubMap {
    std::uint64_t address, length, ram_offset;
    std::uint32_t protection, flags;
};

/// As struct sock_fprog of the kernel.
struct StubProgram {
    std::uint64_t count;
    std::uint64_t code;  ///< address in the stub
};

inline constexpr int kStubRamFd = 3;             ///< the RAM file, in the zygote and every stub
inline constexpr std::uint32_t kStubMaps = 256;  ///< in one order
inline constexpr std::uint32_t kStubFilterWords = 64;  ///< instructions of a filter

struct StubOrders {
    std::uint32_t gate;      ///< the number of the run that may begin; 0: closed
    std::uint32_t sleeping;  ///< the VMM wants to be woken
    std::uint32_t map_go;    ///< the number of the order in `maps`
    std::uint32_t map_count;
    std::uint64_t no_signals;  ///< the signal mask in guest code: empty
    std::uint32_t ram_fd;
    std::uint32_t vector_mask;  ///< components that XRSTOR loads
    std::uint64_t gpr[16];
    std::uint64_t rflags, rip, fs_base, gs_base;
    StubProgram guest_program, helper_program;
    std::uint64_t unused[4];
    alignas(64) std::byte xsave[arch::x86::kXsaveBytes];
    std::uint64_t filters[2][kStubFilterWords];
    std::byte padding[0xf00 - sizeof(std::uint64_t) * 2 * kStubFilterWords];
    StubMap maps[kStubMaps];
};

struct StubReports {
    std::uint32_t done;  ///< the handler ran: a hint
    std::uint32_t entered;
    std::uint32_t map_done;  ///< the number of the order that was carried out: trusted while the
                             ///< guest's thread is known to wait
    std::uint32_t map_failed;
    std::uint64_t context;  ///< address of the ucontext_t
    std::uint64_t fs_base, gs_base;
    std::uint32_t signal, unused;
    std::uint16_t selectors[4];  ///< DS, ES, FS, GS
    std::byte padding[0x1000 - 0x38];
    std::byte stack[0x4000];
};

struct StubArea {
    std::byte code[0x1000];
    StubOrders orders;
    StubReports reports;
};

static_assert(offsetof(StubArea, orders) == 0x1000 && offsetof(StubArea, reports) == 0x5000 &&
              sizeof(StubArea) == 0xa000);
static_assert(offsetof(StubOrders, gpr) == 0x20 && offsetof(StubOrders, rflags) == 0xa0 &&
              offsetof(StubOrders, guest_program) == 0xc0);
static_assert(offsetof(StubOrders, xsave) == 0x100 && offsetof(StubOrders, maps) == 0x2000 &&
              sizeof(StubMap) == 32);
static_assert(offsetof(StubReports, context) == 0x10 && offsetof(StubReports, selectors) == 0x30 &&
              offsetof(StubReports, stack) == 0x1000);

/// The code, and places in it.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming): symbols of assembly.
extern const char strata_stub_begin[], strata_stub_end[], strata_stub_handler[],
    strata_stub_start[];
extern const char strata_stub_wake_call[], strata_stub_wait_call[], strata_stub_mask_call[],
    strata_stub_helper_wait_call[], strata_stub_enter[], strata_stub_enter_end[];
// NOLINTEND(readability-identifier-naming)
}

/// Where a place of the code stands in a stub whose area is at `base`.
inline std::uint64_t stub_place(std::uint64_t base, const char* symbol) {
    return base + static_cast<std::uint64_t>(symbol - strata_stub_begin);
}

}  // namespace strata::engine::soft
