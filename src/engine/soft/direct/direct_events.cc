// DirectEvents: when user code runs long enough between two entries of its kernel. Compiled for
// general registers only, as a whole.
#include "engine/soft/direct/direct_events.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kWindowReturns = 16;  // a window ends after so many, or an interrupt
constexpr std::uint64_t kLongUs = 50;         // between two returns: worth it
constexpr std::uint64_t kResumeUs = 120;      // after a short run: so long, and it is tried again
constexpr std::uint32_t kHeld = 256;          // … unless so many returns were shorter
constexpr std::uint64_t kCreditUs = 6000;     // of such windows, before a stub is spent on it
constexpr std::uint64_t kFirstLossNs = 40'000'000, kLossShare = 25;

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
    direct.active -= oldest->active ? 1U : 0U;
    __builtin_memset(oldest, 0, sizeof *oldest);
    oldest->cr3 = cr3;
    oldest->last_use = now;
    return *oldest;
}

// A space that was tried with a short run: whether its user code runs for longer again.
bool resumes(DirectEvents& direct, UserSpace& space, std::uint64_t now) {
    if (space.hold && now - direct.since < cycles(direct, kResumeUs)) {
        if (++space.held >= kHeld) {
            set_active(direct, space, false);
        }
        return false;
    }
    space.hold = false;
    space.held = 0;
    return true;
}

// The end of a window: its time is its space's credit if returns were far apart.
void credit_window(DirectEvents& direct, UserSpace& space, std::uint64_t now) {
    const std::uint64_t rounds = direct.rounds - direct.countdown + 1;
    if (now - direct.since < rounds * cycles(direct, kLongUs)) {
        direct.since_cpu = 0;
        space.credit /= 2;
        return;
    }
    // The host may have run something else meanwhile.
    const std::uint64_t cpu_now = thread_cpu_ns(), began = direct.since_cpu;
    direct.since_cpu = cpu_now;
    direct.begin_cpu = direct.begin_cpu == 0 ? cpu_now : direct.begin_cpu;
    const std::uint64_t spent = began == 0 ? 0 : (cpu_now - began) / 1000;
    if (began == 0 || space.not_before > now) {
        return;
    }
    space.credit = spent >= rounds * kLongUs ? space.credit + spent : space.credit / 2;
    if (space.credit >= kCreditUs && may_lose_more(direct, cpu_now)) {
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
    space.credit = space.held = 0;
}

bool may_lose_more(const DirectEvents& direct, std::uint64_t cpu_now) noexcept {
    return direct.lost_ns < kFirstLossNs + (cpu_now - direct.begin_cpu) / kLossShare;
}

UserSpace& current_space(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    if (direct.space == nullptr || direct.space_cr3 != cpu.cr3) {
        direct.space = &find_space(direct, cpu.cr3, __builtin_ia32_rdtsc());
        direct.space_cr3 = cpu.cr3;
    }
    return *direct.space;
}

bool judge_user_return(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    const std::uint64_t now = __builtin_ia32_rdtsc();
    UserSpace* last = direct.space;  // whose time it was
    bool enter = direct.always;
    if (last != nullptr && last->active && last->cr3 == cpu.cr3) {
        enter = resumes(direct, *last, now) || enter;
        direct.since_cpu = 0;
    } else {
        if (last != nullptr && !last->active && direct.countdown != 0) {
            credit_window(direct, *last, now);
        }
        const UserSpace& space = current_space(cpu);
        enter = (space.active && !space.hold) || enter;
    }
    direct.since = now;
    const bool each = direct.always || direct.space->active;
    direct.rounds = direct.countdown = each ? 1 : kWindowReturns;
    return enter;
}

}  // namespace strata::engine::soft
