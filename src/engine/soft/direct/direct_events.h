// DirectEvents: what the hot paths tell about one vCPU for direct execution: TLB flushes, and time
// between returns to user code.
//
// Plain counters, written by code that is compiled for general registers only, on the vCPU's thread
// or within an exclusive section; DirectRunner reads them before it enters a stub. A stub's
// mappings are a TLB: they may be stale exactly until the guest flushes, and then not.
#pragma once

#include <cstdint>

#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// An address space as the counters know it.
struct UserSpace {
    std::uint64_t cr3;
    std::uint64_t last_use;    ///< TSC
    std::uint64_t credit;      ///< µs in which it would have been worth it
    std::uint64_t not_before;  ///< TSC: it was not worth it, or cannot be had
    std::uint64_t backoff;     ///< the next wait
    std::uint32_t strikes;     ///< windows in a row that were not worth it
    bool active;               ///< user code goes to the stub
    bool hold;  ///< the last run was short: the translator goes on until user code has run for
                ///< longer
};

struct DirectEvents {
    static constexpr std::uint32_t kPcids = 64, kRing = 256, kSpaces = 32;
    /// Low bits of a ring entry, above which stands a page address.
    static constexpr std::uint64_t kLinearPage = 0, kRamPage = 1;

    std::uint64_t flushes_all;
    std::uint64_t flushes[kPcids];  ///< by PCID modulo
    std::uint64_t ring[kRing];      ///< single pages: of linear addresses that were flushed, of RAM
                                    ///< that lost write permission
    std::uint64_t head;

    bool enter;  ///< the executor wants to be called again, for a stub
    std::uint64_t space_cr3;
    UserSpace* space;         ///< of space_cr3
    std::uint64_t since;      ///< TSC of the measured window's begin
    std::uint64_t since_cpu;  ///< this thread's processor time then, in ns
    std::uint32_t rounds;     ///< returns to user code in it
    std::uint32_t tsc_khz;
    UserSpace spaces[kSpaces];
};

inline void note_flush_all(CpuState& cpu) noexcept {
    if (cpu.direct != nullptr) {
        ++cpu.direct->flushes_all;
    }
}
inline void note_flush_pcid(CpuState& cpu, std::uint16_t pcid) noexcept {
    if (cpu.direct != nullptr) {
        ++cpu.direct->flushes[pcid % DirectEvents::kPcids];
    }
}
/// `page`: page-aligned, with its kind in bit 0.
inline void note_page_event(CpuState& cpu, std::uint64_t page) noexcept {
    if (cpu.direct != nullptr) {
        cpu.direct->ring[cpu.direct->head++ % DirectEvents::kRing] = page;
    }
}

/// The calling thread's processor time; what the host ran instead does not count. For general
/// registers only.
[[nodiscard]] std::uint64_t thread_cpu_ns() noexcept;

/// The vCPU has slept: no time of anybody's.
inline void note_sleep(CpuState& cpu) noexcept {
    if (cpu.direct != nullptr) {
        cpu.direct->since = __builtin_ia32_rdtsc();
        cpu.direct->rounds = 0;
        cpu.direct->since_cpu = thread_cpu_ns();
    }
}

/// The vCPU has returned to user code. True: it should go on in a stub. For general registers only.
[[nodiscard]] bool note_user_return(CpuState& cpu) noexcept;
/// The record of the current address space.
[[nodiscard]] UserSpace& current_space(CpuState& cpu) noexcept;

}  // namespace strata::engine::soft
