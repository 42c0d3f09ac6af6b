// ApicTimer: the local APIC's timer: one-shot, periodic, TSC deadline. SDM 3A, 11.5.4.
#include <algorithm>

#include "engine/soft/apic/apic_registers.h"
#include "engine/soft/apic/local_apic.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {

using namespace apic;  // NOLINT(google-build-using-namespace): its register names

namespace {
// A guest that asks for a period shorter than this only ever sees this one: it cannot drown its own
// vCPU thread in timers.
constexpr std::uint64_t kShortestPeriodNs = 20'000;
}  // namespace

LocalApic::TimerMode LocalApic::timer_mode() const noexcept {
    return static_cast<TimerMode>((get(kLvtTimer) >> 17) & 3);
}

// Nanoseconds of one count: the divider, bits 3, 1, 0: 0 is 2, … 6 is 128, 7 is 1.
std::uint64_t LocalApic::tick_ns() const noexcept {
    const std::uint32_t divide = get(kDivide);
    const std::uint32_t code = (divide & 3) | ((divide >> 1) & 4);
    return 1ULL << ((code + 1) & 7);
}

std::uint64_t LocalApic::initial_ns() const noexcept {
    return get(kInitialCount) * tick_ns();
}

void LocalApic::arm(std::uint64_t deadline) noexcept {
    if (deadline != deadline_) {
        deadline_ = deadline;
        host_.arm_timer(cpu_, deadline);
    }
}

void LocalApic::start_counting() noexcept {
    if (timer_mode() == TimerMode::TscDeadline) {
        return;
    }
    if (get(kInitialCount) == 0) {
        arm(kNoDeadline);
        return;
    }
    count_started_ = monotonic_ns();
    arm(count_started_ + initial_ns());
}

std::uint32_t LocalApic::current_count() const noexcept {
    const std::uint64_t initial = initial_ns();
    if (timer_mode() == TimerMode::TscDeadline || initial == 0 || deadline_ == kNoDeadline) {
        return 0;
    }
    const std::uint64_t passed = monotonic_ns() - count_started_;
    if (passed >= initial && timer_mode() == TimerMode::OneShot) {
        return 0;
    }
    return static_cast<std::uint32_t>((initial - passed % initial) / tick_ns());
}

std::uint64_t LocalApic::tsc_deadline() const noexcept {
    return timer_mode() == TimerMode::TscDeadline ? tsc_deadline_ : 0;
}

std::uint64_t LocalApic::deadline_of_tsc(std::uint64_t tsc) const noexcept {
    const std::uint64_t now_tsc = host_tsc() + cpu_.tsc_offset;
    const std::uint64_t now = monotonic_ns();
    if (tsc <= now_tsc) {
        return now;
    }
    // One more nanosecond: rounding must not end before the TSC gets there.
    const std::uint64_t wait = cycles_to_ns(tsc - now_tsc, host_.tsc_khz()) + 1;
    return wait >= kNoDeadline - now ? kNoDeadline - 1 : now + wait;
}

void LocalApic::set_tsc_deadline(std::uint64_t value) noexcept {
    if (timer_mode() != TimerMode::TscDeadline) {
        return;
    }
    tsc_deadline_ = value;
    if (value == 0) {
        arm(kNoDeadline);
    } else if (value <= host_tsc() + cpu_.tsc_offset) {
        timer_expired();
    } else {
        arm(deadline_of_tsc(value));
    }
}

void LocalApic::timer_expired() noexcept {
    switch (timer_mode()) {
        case TimerMode::TscDeadline:
            if (tsc_deadline_ == 0) {
                return;
            }
            if (host_tsc() + cpu_.tsc_offset < tsc_deadline_) {
                deadline_ = kNoDeadline;  // early: the same moment may have to be armed again
                arm(deadline_of_tsc(tsc_deadline_));
                return;
            }
            tsc_deadline_ = 0;
            arm(kNoDeadline);
            break;
        case TimerMode::OneShot:
        case TimerMode::Periodic: {
            const std::uint64_t now = monotonic_ns();
            if (deadline_ == kNoDeadline) {
                return;
            }
            if (now < deadline_) {
                const std::uint64_t again = deadline_;
                deadline_ = kNoDeadline;
                arm(again);
                return;
            }
            if (timer_mode() == TimerMode::OneShot) {
                arm(kNoDeadline);
                break;
            }
            // Ticks that were missed are one tick, as when interrupts of one vector merge in IRR.
            const std::uint64_t period = std::max(initial_ns(), kShortestPeriodNs);
            const std::uint64_t missed = (now - deadline_) / period;
            count_started_ = deadline_ + missed * period;
            arm(count_started_ + period);
            break;
        }
        case TimerMode::Reserved:
            arm(kNoDeadline);
            return;
    }
    fire_lvt(kLvtTimer);
}

void LocalApic::restart_timer(std::uint64_t deadline_tsc) noexcept {
    deadline_ = kNoDeadline;
    host_.arm_timer(cpu_, kNoDeadline);
    if (timer_mode() == TimerMode::TscDeadline) {
        tsc_deadline_ = deadline_tsc;
        if (deadline_tsc != 0) {
            arm(deadline_of_tsc(deadline_tsc));
        }
        return;
    }
    const std::uint64_t left = get(kCurrentCount) * tick_ns();
    if (get(kInitialCount) != 0 && (left != 0 || timer_mode() == TimerMode::Periodic)) {
        const std::uint64_t now = monotonic_ns();
        const std::uint64_t passed = initial_ns() - std::min(left, initial_ns());
        count_started_ = now - passed;
        arm(now + left);
    }
}

}  // namespace strata::engine::soft
