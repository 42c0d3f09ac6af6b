// DirectEvents: when user code runs long enough between two entries of its kernel. Compiled for
// general registers only, as a whole.
#include "engine/soft/direct/direct_events.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kWindowUs = 300;     // a window ends after this time …
constexpr std::uint32_t kWindowRounds = 32;  // … or so many returns
constexpr std::uint64_t kLongUs = 50;        // between two returns: worth it
constexpr std::uint64_t kResumeUs = 120;     // after a short run: so long, and it is tried again
constexpr std::uint64_t kCreditUs = 4000;    // of such windows, before a stub is spent on it

std::uint64_t cycles(const DirectEvents& direct, std::uint64_t us) {
    return us * direct.tsc_khz / 1000;
}

UserSpace& find_space(DirectEvents& direct, std::uint64_t cr3, std::uint64_t now) {
    UserSpace* oldest = &direct.spaces[0];
    for (UserSpace& space : direct.spaces) {
        if (space.cr3 == cr3 && space.last_use != 0) {
            space.last_use = now;
            return space;
        }
        if (space.last_use < oldest->last_use) {
            oldest = &space;
        }
    }
    oldest->cr3 = cr3;
    oldest->last_use = now;
    oldest->credit = oldest->not_before = oldest->backoff = 0;
    oldest->strikes = 0;
    oldest->active = oldest->hold = false;
    return *oldest;
}

}  // namespace

std::uint64_t thread_cpu_ns() noexcept {
    constexpr long kClockGettime = 228, kThreadClock = 3;
    std::int64_t time[2] = {};
    long answer = kClockGettime;
    // The C library's function is not compiled for general registers only.
    __asm__ volatile("syscall"
                     : "+a"(answer)
                     : "D"(kThreadClock), "S"(time)
                     : "rcx", "r11", "memory");
    return static_cast<std::uint64_t>(time[0]) * 1'000'000'000U +
           static_cast<std::uint64_t>(time[1]);
}

UserSpace& current_space(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    const std::uint64_t now = __builtin_ia32_rdtsc();
    if (direct.space == nullptr || direct.space_cr3 != cpu.cr3) {
        direct.space = &find_space(direct, cpu.cr3, now);
        direct.space_cr3 = cpu.cr3;
        direct.since = now;
        direct.since_cpu = thread_cpu_ns();
        direct.rounds = 0;
    }
    return *direct.space;
}

bool note_user_return(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    UserSpace& space = current_space(cpu);
    const std::uint64_t now = __builtin_ia32_rdtsc();
    if (space.not_before > now) {
        return false;
    }
    const std::uint64_t time = now - direct.since;
    if (space.active) {
        direct.since = now;
        space.hold = space.hold && time < cycles(direct, kResumeUs);
        return !space.hold;
    }
    ++direct.rounds;
    if (direct.rounds < kWindowRounds && time < cycles(direct, kWindowUs)) {
        return false;
    }
    const std::uint64_t cpu_now = thread_cpu_ns();
    const std::uint64_t spent = (cpu_now - direct.since_cpu) / 1000;
    const bool worth = spent / direct.rounds >= kLongUs;
    space.credit = worth ? space.credit + spent : space.credit / 2;
    direct.since_cpu = cpu_now;
    direct.since = now;
    direct.rounds = 0;
    if (space.credit >= kCreditUs) {
        space.active = true;
        space.strikes = 0;
    }
    return space.active;
}

}  // namespace strata::engine::soft
