// Hpet: registers, comparators and the legacy wiring.
#include "devices/timer/hpet.h"

#include <algorithm>
#include <utility>

#include "devices/core/windows.h"

namespace strata::devices {
namespace {

// General registers: 1.0a, 2.3.
constexpr std::uint64_t kCapabilities = 0x000;
constexpr std::uint64_t kConfiguration = 0x010;
constexpr std::uint64_t kStatus = 0x020;
constexpr std::uint64_t kCounter = 0x0f0;
constexpr std::uint64_t kTimersStart = 0x100;
constexpr std::uint64_t kTimerSize = 0x20;
constexpr std::uint64_t kFemtoseconds = Hpet::kPeriod * 1'000'000;

constexpr std::uint64_t kEnable = 1U << 0;
constexpr std::uint64_t kLegacy = 1U << 1;

// Timer n configuration: 2.3.8.
constexpr std::uint64_t kLevel = 1U << 1;
constexpr std::uint64_t kInterrupt = 1U << 2;
constexpr std::uint64_t kPeriodic = 1U << 3;
constexpr std::uint64_t kPeriodicCapable = 1U << 4;
constexpr std::uint64_t kWide = 1U << 5;
constexpr std::uint64_t kSetValue = 1U << 6;
constexpr std::uint64_t k32Bits = 1U << 8;
constexpr unsigned kRouteShift = 9;
constexpr std::uint64_t kRouteMask = 31U << kRouteShift;
constexpr std::uint64_t kFsb = 1U << 14;
constexpr std::uint64_t kFsbCapable = 1U << 15;
constexpr std::uint64_t kWritable =
    kLevel | kInterrupt | kPeriodic | kSetValue | k32Bits | kRouteMask | kFsb;

constexpr std::uint64_t kTwo32 = std::uint64_t{1} << 32;
/// A match further away than this (a few hundred years) never comes.
constexpr std::uint64_t kFar = std::uint64_t{1} << 60;

constexpr std::string_view kSection = "hpet";
constexpr std::uint16_t kVersion = 1;

std::uint64_t merge(std::uint64_t old, std::uint64_t value, std::uint64_t mask) {
    return (old & ~mask) | (value & mask);
}

std::uint64_t width_mask(std::uint64_t config) {
    return (config & k32Bits) != 0 ? kTwo32 - 1 : ~std::uint64_t{0};
}

}  // namespace

class Hpet::LegacyInput final : public bus::IrqLine {
  public:
    LegacyInput(Hpet& hpet, unsigned index) : hpet_(hpet), index_(index) {}
    void set(bool asserted) override { hpet_.set_legacy_input(index_, asserted); }

  private:
    Hpet& hpet_;
    const unsigned index_;
};

Hpet::Hpet(io::EventLoop& loop, const io::MachineClock& clock, Wiring wiring)
    : clock_(clock),
      wiring_(std::move(wiring)),
      pit_input_(std::make_unique<LegacyInput>(*this, 0)),
      rtc_input_(std::make_unique<LegacyInput>(*this, 1)),
      alarm_(loop, clock, [this] { advance(); }) {
    STRATA_CHECK(wiring_.irq0 != nullptr && wiring_.irq8 != nullptr,
                 "the HPET needs both legacy lines");
}

Hpet::~Hpet() = default;

bus::IrqLine& Hpet::pit_input() {
    return *pit_input_;
}
bus::IrqLine& Hpet::rtc_input() {
    return *rtc_input_;
}

void Hpet::set_legacy_input(unsigned index, bool asserted) {
    const MutexLock lock(mutex_);
    legacy_levels_[index] = asserted;
    if ((config_ & kLegacy) == 0) {
        (index == 0 ? wiring_.irq0 : wiring_.irq8)->set(asserted);
    }
}

/// PIT and RTC have their lines back, or lose them.
void Hpet::drive_legacy() {
    const bool theirs = (config_ & kLegacy) == 0;
    wiring_.irq0->set(theirs && legacy_levels_[0]);
    wiring_.irq8->set(theirs && legacy_levels_[1]);
}

std::uint64_t Hpet::counter() const {
    return (config_ & kEnable) != 0 ? clock_.now() / kPeriod + offset_ : stopped_at_;
}

std::uint64_t Hpet::machine_time(std::uint64_t counter_value) const {
    return (counter_value - offset_) * kPeriod;
}

/// Where a comparator's interrupt goes; nullptr if its route is not one that is offered.
bus::IrqLine* Hpet::line_of(unsigned index) const {
    if ((config_ & kLegacy) != 0 && index < 2) {
        return index == 0 ? wiring_.irq0 : wiring_.irq8;
    }
    const auto route =
        static_cast<std::uint32_t>((timers_[index].config & kRouteMask) >> kRouteShift);
    return (wiring_.routable >> route & 1) != 0 ? &wiring_.gsi(route) : nullptr;
}

/// A match happened.
void Hpet::fire(unsigned index) {
    const Timer& timer = timers_[index];
    if ((timer.config & kLevel) != 0) {
        status_ |= std::uint64_t{1} << index;
        drive(index);
        return;
    }
    if ((timer.config & kInterrupt) == 0) {
        return;
    }
    if ((timer.config & kFsb) != 0 && wiring_.msi != nullptr) {
        wiring_.msi->send({timer.fsb >> 32, static_cast<std::uint32_t>(timer.fsb)});
    } else if (bus::IrqLine* line = line_of(index); line != nullptr) {
        line->set(false);
        line->set(true);
        line->set(false);
    }
}

/// A level-triggered comparator holds its line while its status bit is set.
void Hpet::drive(unsigned index) {
    const Timer& timer = timers_[index];
    bus::IrqLine* line = line_of(index);
    if (line == nullptr || (timer.config & (kInterrupt | kFsb)) == kFsb) {
        return;
    }
    const bool active = (timer.config & kInterrupt) != 0 && (status_ >> index & 1) != 0;
    line->set(active && (timer.config & kLevel) != 0);
}

/// Finds the next match of a running counter.
void Hpet::schedule(Timer& timer) {
    timer.debt.forgive();
    timer.armed = false;
    if ((config_ & kEnable) == 0) {
        return;
    }
    const std::uint64_t now = counter();
    const std::uint64_t wait = (timer.comparator - now) & width_mask(timer.config);
    timer.next = now + wait;
    timer.armed = wait < kFar;
}

/// Fires what is due. A periodic comparator moves on by whole periods; what it missed is owed.
void Hpet::run_timer(unsigned index, std::uint64_t now) {
    Timer& timer = timers_[index];
    const std::uint64_t time = clock_.now();
    const bool repeats = (timer.config & kPeriodic) != 0;
    if (timer.armed && now >= timer.next && time >= timer.not_before) {
        const std::uint64_t period = timer.period & width_mask(timer.config);
        if (repeats && period != 0) {
            const std::uint64_t missed = (now - timer.next) / period;
            timer.next += (missed + 1) * period;
            timer.comparator = timer.next & width_mask(timer.config);
            timer.armed = period < kFar;
            timer.debt.owe((timer.config & kInterrupt) != 0 ? missed : 0);
            timer.not_before = time + TickDebt::kSpacing;
            timer.owed_at = time + TickDebt::spacing(std::min(period, kFar) * kPeriod);
        } else {
            // 2.3.9.2.1: in 32-bit mode the counter comes by again when it wraps.
            timer.next += kTwo32 * ((now - timer.next) / kTwo32 + 1);
            timer.armed = (timer.config & k32Bits) != 0;
        }
        fire(index);
    } else if (timer.debt.owed() != 0 && time >= timer.owed_at && timer.debt.pay()) {
        timer.owed_at = time + TickDebt::spacing(std::min(timer.period, kFar) * kPeriod);
        fire(index);
    }
}

void Hpet::run_all() {
    if ((config_ & kEnable) == 0 || paused_) {
        return;
    }
    const std::uint64_t now = counter();
    for (unsigned index = 0; index < kTimers; ++index) {
        run_timer(index, now);
    }
}

/// Machine time at which a comparator next has something to do that the guest would notice.
std::optional<std::uint64_t> Hpet::wake_time(const Timer& timer) const {
    std::optional<std::uint64_t> when;
    if ((timer.config & kInterrupt) == 0) {
        return when;
    }
    if (timer.armed) {
        when = std::max(machine_time(timer.next), timer.not_before);
    }
    if (timer.debt.owed() != 0) {
        when = std::min(when.value_or(timer.owed_at), timer.owed_at);
    }
    return when;
}

void Hpet::rearm() {
    std::optional<std::uint64_t> next;
    if ((config_ & kEnable) != 0 && !paused_) {
        for (const Timer& timer : timers_) {
            if (const auto when = wake_time(timer)) {
                next = std::min(next.value_or(*when), *when);
            }
        }
    }
    alarm_.set(next);
}

void Hpet::advance() {
    const MutexLock lock(mutex_);
    run_all();
    rearm();
}

void Hpet::read(std::uint64_t offset, std::span<std::byte> data) {
    const bool whole = (data.size() == 4 || data.size() == 8) && offset % data.size() == 0;
    if (!whole) {
        from_integer(~std::uint64_t{0}, data);
        return;
    }
    const MutexLock lock(mutex_);
    run_all();
    from_integer(read_register(offset & ~std::uint64_t{7}) >> (8 * (offset & 7)), data);
}

std::uint64_t Hpet::read_register(std::uint64_t offset) const {
    switch (offset) {
        case kCapabilities:
            return kBlockId | (kFemtoseconds << 32);
        case kConfiguration:
            return config_;
        case kStatus:
            return status_;
        case kCounter:
            return counter();
        default:
            break;
    }
    const std::uint64_t index = (offset - kTimersStart) / kTimerSize;
    if (offset < kTimersStart || index >= kTimers) {
        return ~std::uint64_t{0};
    }
    const Timer& timer = timers_[index];
    switch (offset % kTimerSize) {
        case 0x00:
            return timer.config | kPeriodicCapable | kWide |
                   (wiring_.msi != nullptr ? kFsbCapable : 0) |
                   (std::uint64_t{wiring_.routable} << 32);
        case 0x08:
            return timer.comparator;
        case 0x10:
            return timer.fsb;
        default:
            return ~std::uint64_t{0};
    }
}

void Hpet::write(std::uint64_t offset, std::span<const std::byte> data) {
    const bool whole = (data.size() == 4 || data.size() == 8) && offset % data.size() == 0;
    if (!whole) {
        return;
    }
    const unsigned shift = 8 * static_cast<unsigned>(offset & 7);
    const std::uint64_t mask = (data.size() == 8 ? ~std::uint64_t{0} : kTwo32 - 1) << shift;
    const MutexLock lock(mutex_);
    run_all();
    write_register(offset & ~std::uint64_t{7}, to_integer(data) << shift, mask);
    rearm();
}

void Hpet::write_register(std::uint64_t offset, std::uint64_t value, std::uint64_t mask) {
    switch (offset) {
        case kConfiguration:
            write_config(merge(config_, value, mask) & (kEnable | kLegacy));
            return;
        case kStatus:
            status_ &= ~(value & mask);
            for (unsigned index = 0; index < kTimers; ++index) {
                if ((timers_[index].config & kLevel) != 0) {
                    drive(index);
                }
            }
            return;
        case kCounter:
            if ((config_ & kEnable) == 0) {  // 2.3.7: only while halted
                stopped_at_ = merge(stopped_at_, value, mask);
            }
            return;
        default:
            break;
    }
    const std::uint64_t index = (offset - kTimersStart) / kTimerSize;
    if (offset >= kTimersStart && index < kTimers) {
        write_timer(static_cast<unsigned>(index), offset % kTimerSize, value, mask);
    }
}

void Hpet::write_config(std::uint64_t value) {
    const std::uint64_t changed = value ^ config_;
    const std::uint64_t now = counter();
    config_ = value;
    if ((changed & kLegacy) != 0) {
        drive_legacy();
    }
    if ((changed & kEnable) == 0) {
        return;
    }
    if ((value & kEnable) != 0) {
        offset_ = now - clock_.now() / kPeriod;
    } else {
        stopped_at_ = now;
    }
    for (Timer& timer : timers_) {
        schedule(timer);
    }
}

void Hpet::write_timer(unsigned index, std::uint64_t reg, std::uint64_t value, std::uint64_t mask) {
    Timer& timer = timers_[index];
    switch (reg) {
        case 0x00:
            write_timer_config(index, merge(timer.config, value, mask) & kWritable);
            break;
        case 0x08:
            write_comparator(timer, value, mask);
            break;
        case 0x10:
            timer.fsb = merge(timer.fsb, value, mask);
            break;
        default:
            break;
    }
}

void Hpet::write_timer_config(unsigned index, std::uint64_t value) {
    Timer& timer = timers_[index];
    if ((timer.config & kLevel) != 0) {
        if (bus::IrqLine* line = line_of(index); line != nullptr) {
            line->set(false);  // it may be routed elsewhere now
        }
    }
    if (wiring_.msi == nullptr) {
        value &= ~kFsb;
    }
    const std::uint64_t changed = value ^ timer.config;
    timer.config = value;
    if ((value & k32Bits) != 0) {
        timer.comparator &= kTwo32 - 1;
        timer.period &= kTwo32 - 1;
    }
    if ((changed & (k32Bits | kPeriodic)) != 0) {
        schedule(timer);
    }
    if ((value & kLevel) != 0) {
        drive(index);
    } else {
        status_ &= ~(std::uint64_t{1} << index);
    }
}

/// 2.3.9.2.2: a periodic comparator takes the first match only with VAL_SET; without it a write is
/// the period alone.
void Hpet::write_comparator(Timer& timer, std::uint64_t value, std::uint64_t mask) {
    const std::uint64_t width = width_mask(timer.config);
    const bool repeats = (timer.config & kPeriodic) != 0;
    if (repeats) {
        timer.period = merge(timer.period, value, mask) & width;
    }
    if (!repeats || (timer.config & kSetValue) != 0) {
        timer.comparator = merge(timer.comparator, value, mask) & width;
    }
    timer.config &= ~kSetValue;
    timer.not_before = 0;
    schedule(timer);
}

Result<> Hpet::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    alarm_.clear();
    return ok();
}

Result<> Hpet::resume() {
    const MutexLock lock(mutex_);
    paused_ = false;
    if ((config_ & kLegacy) == 0) {
        drive_legacy();
    }
    for (unsigned index = 0; index < kTimers; ++index) {
        if ((timers_[index].config & kLevel) != 0) {
            drive(index);
        }
    }
    rearm();
    return ok();
}

Result<> Hpet::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    for (const std::uint64_t value : {config_, status_, stopped_at_, offset_}) {
        writer.u64(value);
    }
    for (const bool level : legacy_levels_) {
        writer.boolean(level);
    }
    for (const Timer& timer : timers_) {
        for (const std::uint64_t value :
             {timer.config, timer.comparator, timer.period, timer.fsb, timer.next,
              timer.debt.owed(), timer.owed_at, timer.not_before}) {
            writer.u64(value);
        }
        writer.boolean(timer.armed);
    }
    writer.end();
    return ok();
}

Result<> Hpet::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    for (std::uint64_t* value : {&config_, &status_, &stopped_at_, &offset_}) {
        *value = reader.u64();
    }
    config_ &= kEnable | kLegacy;
    status_ &= (1U << kTimers) - 1;
    for (bool& level : legacy_levels_) {
        level = reader.boolean();
    }
    for (Timer& timer : timers_) {
        std::uint64_t owed = 0;
        for (std::uint64_t* value : {&timer.config, &timer.comparator, &timer.period, &timer.fsb,
                                     &timer.next, &owed, &timer.owed_at, &timer.not_before}) {
            *value = reader.u64();
        }
        timer.config &= kWritable;
        timer.debt.restore(owed);
        timer.armed = reader.boolean();
    }
    rearm();
    return reader.end();
}

}  // namespace strata::devices
