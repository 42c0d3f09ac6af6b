// DirectEvents: when user code runs long enough between two entries of its kernel. Compiled for general registers only, as a whole.
#include "engine/soft/direct/direct_events.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kWindowUs = 100;   // a window ends after this time …
constexpr std::uint32_t kWindowRounds = 8;  // … or so many returns
constexpr std::uint64_t kLongUs = 50;      // between two returns: worth it
constexpr std::uint64_t kResumeUs = 80;    // after a short run: so long, and it is tried again
constexpr std::uint64_t kCreditUs = 2000;  // of such windows, before a stub is spent on it

std::uint64_t cycles(const DirectEvents& direct, std::uint64_t us) { return us * direct.tsc_khz / 1000; }

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
    oldest->active = false;
    return *oldest;
}

}  // namespace

UserSpace& current_space(CpuState& cpu) noexcept {
    DirectEvents& direct = *cpu.direct;
    const std::uint64_t now = __builtin_ia32_rdtsc();
    if (direct.space == nullptr || direct.space_cr3 != cpu.cr3) {
        direct.space = &find_space(direct, cpu.cr3, now);
        direct.space_cr3 = cpu.cr3;
        direct.since = now;
        direct.rounds = 0;
        direct.hold = false;
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
        direct.hold = direct.hold && time < cycles(direct, kResumeUs);
        return !direct.hold;
    }
    ++direct.rounds;
    if (direct.rounds < kWindowRounds && time < cycles(direct, kWindowUs)) {
        return false;
    }
    const bool worth = time / direct.rounds >= cycles(direct, kLongUs);
    space.credit = worth ? space.credit + time : space.credit / 2;
    direct.since = now;
    direct.rounds = 0;
    if (space.credit >= cycles(direct, kCreditUs)) {
        space.active = true;
        space.strikes = 0;
    }
    return space.active;
}

}  // namespace strata::engine::soft
