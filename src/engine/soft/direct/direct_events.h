// DirectEvents: what the hot paths tell about one vCPU for direct execution: TLB flushes, and how
// long user code runs between two entries of its kernel.
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
    std::uint64_t user;        ///< µs of user code lately,
    std::uint64_t entries;     ///< and how often the kernel was entered meanwhile
    std::uint64_t not_before;  ///< TSC: it was not worth it, or cannot be had
    std::uint64_t backoff;     ///< the next wait, in µs
    std::uint32_t strikes;     ///< windows in a row that were not worth it
    std::uint32_t held;        ///< returns since `hold`
    std::uint64_t mean_run;    ///< of runs in the stub lately, in eighths of a µs
    bool active;               ///< user code goes to the stub
    bool hold;  ///< runs have become short: the translator goes on until user code has run for
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

    bool enter;               ///< the executor wants to be called again, for a stub
    bool always;              ///< tests: whether or not it is worth it
    std::uint32_t countdown;  ///< returns to user code until somebody looks at the time
    std::uint32_t rounds;     ///< returns in this window, at its end
    bool forced;              ///< the window ends early, with an interrupt
    std::uint32_t active;     ///< spaces that are
    std::uint64_t space_cr3;
    UserSpace* space;          ///< of space_cr3: that of the last return looked at
    std::uint64_t user_since;  ///< TSC of the return whose user code is timed; 0: none is
    std::uint64_t stretch;    ///< how long the last such user code ran, in TSC cycles; 0: not known
    std::uint64_t begin_cpu;  ///< this thread's processor time at the vCPU's first look, in ns
    std::uint64_t lost_ns;    ///< what attempts that were not worth it have cost, as far as others
                              ///< have not made it good
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

/// User code ends here: a system call, exception or interrupt.
inline void note_kernel_entry(CpuState& cpu) noexcept {
    if (cpu.direct != nullptr && cpu.direct->user_since != 0) {
        cpu.direct->stretch = __builtin_ia32_rdtsc() - cpu.direct->user_since;
        cpu.direct->user_since = 0;
    }
}
/// An interrupt goes to the guest's kernel: the next return looks at the time.
inline void note_interrupt(CpuState& cpu) noexcept {
    if (cpu.direct != nullptr && cpu.cpl == 3) {
        note_kernel_entry(cpu);
        if (cpu.direct->countdown > 1) {
            cpu.direct->rounds -= cpu.direct->countdown - 1;
            cpu.direct->countdown = 1;
            cpu.direct->forced = true;
        }
    }
}

/// What note_user_return() does when it looks at the time.
[[nodiscard]] bool judge_user_return(CpuState& cpu) noexcept;

/// The vCPU has returned to user code. True: it should go on in a stub.
[[nodiscard]] inline bool note_user_return(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    // Mostly a count: programs that call their kernel all the time must not notice anything.
    if (direct.countdown > 1 && (direct.active == 0 || cpu.cr3 == direct.space_cr3)) [[likely]] {
        --direct.countdown;
        direct.user_since = 0;
        return false;
    }
    return judge_user_return(cpu);
}
/// The record of the current address space.
[[nodiscard]] UserSpace& current_space(CpuState& cpu) noexcept;
/// User code of the space goes to its stub from now on, or no more.
void set_active(DirectEvents& direct, UserSpace& space, bool active) noexcept;
/// The process is another, with the same page tables: it begins anew, with the translator.
void forget_space(DirectEvents& direct, UserSpace& space) noexcept;
/// User code of the space ran in its stub for so long.
void note_direct_run(UserSpace& space, std::uint64_t us) noexcept;
/// What attempts that are not worth it may have cost until now: a share of the processor time.
[[nodiscard]] bool may_lose_more(const DirectEvents& direct, std::uint64_t cpu_now) noexcept;

}  // namespace strata::engine::soft
