// DirectEvents: when user code runs long enough between two entries of its kernel. Compiled for
// general registers only, as a whole.
#include "engine/soft/direct/direct_events.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kWindowReturns = 16;  // one of so many is timed, where stretches are short
constexpr std::uint64_t kLongUs = 40;         // mean stretch of user code: worth it
constexpr std::uint64_t kResumeUs = 40;       // after a short run: so long, and it is tried again
constexpr std::uint32_t kHeld = 256;          // … unless so many returns were shorter
constexpr std::uint64_t kEnoughUs = 1000;     // of user code, before a stub is spent on it
constexpr std::uint64_t kShortRunUs = 20;    // mean run in a stub: not worth the way there and back
constexpr std::uint64_t kFirstMeanUs = 200;  // as if it had been that long before
constexpr std::uint64_t kMostUs = 4000;      // one stretch counts no more: the host may have run
                                             // something else
constexpr std::uint64_t kDoubtfulUs = 200;   // … nor one that stands for others, more often
constexpr std::uint64_t kMemoryUs = 20'000, kMemoryEntries = 1000;  // then the past fades
constexpr std::uint64_t kFirstLossNs = 40'000'000, kLossShare = 25;

constexpr std::uint64_t kRoot = 0x000ffffffffff000;

std::uint64_t in_us(const DirectEvents& direct, std::uint64_t cycles) {
    return cycles * 1000 / direct.tsc_khz;
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
    direct.active -= oldest->active ? 1U : 0U;
    __builtin_memset(oldest, 0, sizeof *oldest);
    oldest->cr3 = cr3;
    oldest->last_use = now;
    return *oldest;
}

// A space whose runs were short: whether its user code runs for longer again.
bool resumes(DirectEvents& direct, UserSpace& space, std::uint64_t us) {
    if (space.hold && us < kResumeUs) {
        if (++space.held >= kHeld) {
            set_active(direct, space, false);
        }
        return false;
    }
    space.hold = false;
    space.held = 0;
    return true;
}

// A stretch of the space's user code, one of `returns`, which it stands for unless an interrupt
// chose it: interrupts break into long ones.
void account(DirectEvents& direct, UserSpace& space, std::uint64_t us, std::uint64_t returns) {
    const bool stands = !direct.forced && us < kDoubtfulUs;
    space.user += stands ? us * returns : us < kMostUs ? us : kMostUs;
    space.entries += returns;
    if (space.user < kEnoughUs || space.user < space.entries * kLongUs) {
        if (space.entries > kMemoryEntries) {
            space.user /= 2;
            space.entries /= 2;
        }
        return;
    }
    if (space.user > kMemoryUs) {
        space.user /= 2;
        space.entries /= 2;
    }
    if (space.not_before <= __builtin_ia32_rdtsc() && may_lose_more(direct, thread_cpu_ns())) {
        space.strikes = 0;
        space.hold = false;
        set_active(direct, space, true);
    }
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

void set_active(DirectEvents& direct, UserSpace& space, bool active) noexcept {
    if (space.active != active) {
        space.active = active;
        direct.active += active ? 1U : ~0U;
    }
    space.user = space.entries = space.held = 0;
    space.mean_run = 8 * kFirstMeanUs;
}

void forget_space(DirectEvents& direct, UserSpace& space) noexcept {
    set_active(direct, space, false);
    space.not_before = space.backoff = 0;
    space.strikes = 0;
    space.hold = false;
}

void note_direct_run(UserSpace& space, std::uint64_t us) noexcept {
    space.mean_run += us - space.mean_run / 8;
    // Of the runs between two returns any may be the one; resumes() takes it back.
    if (space.mean_run < 8 * kShortRunUs) {
        space.hold = true;
        space.mean_run = 2 * 8 * kShortRunUs;  // the next ones count anew
    }
}

bool may_lose_more(const DirectEvents& direct, std::uint64_t cpu_now) noexcept {
    return direct.lost_ns < kFirstLossNs + (cpu_now - direct.begin_cpu) / kLossShare;
}

UserSpace& current_space(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    if (direct.space == nullptr || direct.space_cr3 != cpu.cr3) {
        direct.space = &find_space(direct, cpu.cr3 & kRoot, __builtin_ia32_rdtsc());
        direct.space_cr3 = cpu.cr3;
    }
    return *direct.space;
}

bool judge_user_return(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    if (direct.begin_cpu == 0) {
        direct.begin_cpu = thread_cpu_ns();
    }
    UserSpace* last = direct.space;  // whose time it was
    const std::uint64_t us = in_us(direct, direct.stretch);
    if (last != nullptr && !last->active) {
        const std::uint64_t returns = direct.rounds - direct.countdown + 1;
        if (direct.stretch != 0) {
            account(direct, *last, us, returns);
        } else {
            last->entries += returns;
        }
    }
    UserSpace& space = current_space(cpu);
    const bool enter =
        (space.active && resumes(direct, space, &space == last ? us : 0)) || direct.always;
    const bool each = enter || space.active || us >= kLongUs;
    direct.stretch = 0;
    direct.forced = false;
    direct.rounds = direct.countdown = each ? 1 : kWindowReturns;
    direct.user_since = __builtin_ia32_rdtsc();
    return enter;
}

}  // namespace strata::engine::soft
