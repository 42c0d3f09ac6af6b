// Rtc: registers, time of day, and the three interrupts.
#include "devices/rtc/rtc.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "devices/core/ticks.h"

namespace strata::devices {
namespace {

// Registers: MC146818A, figure 12; the century is FADT.CENTURY.
enum Register : unsigned {
    kSecondsAlarm = 1,
    kMinutesAlarm = 3,
    kHoursAlarm = 5,
    kYear = 9,
    kA = 10,
    kB = 11,
    kC = 12,
    kD = 13,
    kCentury = 0x32,
};

constexpr std::uint8_t kUpdating = 0x80;        // A: UIP
constexpr std::uint8_t kDividerStopped = 0x60;  // A: DV2, DV1
constexpr std::uint8_t kSet = 0x80;             // B
constexpr std::uint8_t kUpdateEnable = 0x10;
constexpr std::uint8_t k24Hours = 0x02;
constexpr std::uint8_t kPeriodic = 0x40;  // flags in C; B has their enables in the same bits
constexpr std::uint8_t kAlarm = 0x20;
constexpr std::uint8_t kUpdate = 0x10;
constexpr std::uint8_t kFlags = kPeriodic | kAlarm | kUpdate;
constexpr std::uint8_t kInterrupt = 0x80;  // C: IRQF
constexpr std::uint8_t kValid = 0x80;      // D: VRT

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kUpdateTime =
    244'000 + 1'984'000;  ///< UIP is set this long before the second ends
constexpr std::uint64_t kDividerFrequency = 32'768;

}  // namespace

std::uint64_t Rtc::host_utc() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::system_clock::now().time_since_epoch())
                                          .count());
}

Rtc::Rtc(io::EventLoop& loop, const io::MachineClock& clock, bus::IrqLine& irq,
         const UtcSource& utc)
    : clock_(clock),
      irq_(irq),
      ports_(
          "rtc", [this](std::uint64_t offset) { return read_port(offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_port(offset, value); }),
      alarm_(loop, clock, [this] { advance(); }) {
    const MutexLock lock(mutex_);
    bytes_[kA] = 0x26;  // 32.768 kHz, 1024 Hz
    bytes_[kB] = k24Hours;
    offset_ = utc() - clock_.now();
    seen_second_ = time_now() / kSecond;
    seen_periods_ = periods_now();
}

Result<> Rtc::attach(bus::Bus& ports) {
    return ports.add(0x70, 2, ports_);
}

void Rtc::set_nvram(unsigned index, std::uint8_t value) {
    STRATA_CHECK(index > kD && index < kSize && index != kCentury, "not a byte of the CMOS memory");
    const MutexLock lock(mutex_);
    bytes_[index] = value;
}

std::uint64_t Rtc::time_now() const {
    return clock_.now() + offset_;
}

bool Rtc::divider_stopped() const {
    return (bytes_[kA] & kDividerStopped) == kDividerStopped;
}

bool Rtc::held() const {
    return (bytes_[kB] & kSet) != 0 || divider_stopped();
}

bool Rtc::updating() const {
    return !held() && time_now() % kSecond >= kSecond - kUpdateTime;
}

std::uint64_t Rtc::period() const {
    const unsigned rate = bytes_[kA] & 0x0f;
    if (rate == 0 || divider_stopped()) {
        return 0;
    }
    return std::uint64_t{1} << ((rate < 3 ? rate + 7 : rate) - 1);  // table 5, 32.768 kHz
}

std::uint64_t Rtc::periods_now() const {
    const std::uint64_t length = period();
    return length == 0 ? 0 : to_ticks(clock_.now(), kDividerFrequency) / length;
}

std::uint8_t Rtc::read_port(std::uint64_t offset) {
    const MutexLock lock(mutex_);
    return offset == 1 ? read_register(index_) : 0xff;  // the index cannot be read
}

void Rtc::write_port(std::uint64_t offset, std::uint8_t value) {
    const MutexLock lock(mutex_);
    if (offset == 0) {
        index_ = value & 0x7f;  // bit 7 masks NMI on a PC; nothing here raises one
    } else if (offset == 1) {
        write_register(index_, value);
        if (!paused_) {
            rearm();
        }
    }
}

std::uint8_t Rtc::read_register(unsigned index) {
    switch (index) {
        case kA:
            return static_cast<std::uint8_t>(bytes_[kA] | (updating() ? kUpdating : 0));
        case kB:
            return bytes_[kB];
        case kC: {
            catch_up();
            const std::uint8_t value = std::exchange(bytes_[kC], std::uint8_t{0});
            owed_at_ = clock_.now() + TickDebt::kSpacing;
            update_line();
            if (!paused_) {
                rearm();
            }
            return value;
        }
        case kD:
            return kValid;
        default:
            break;
    }
    if ((index <= kYear || index == kCentury) && !held()) {
        fill_time();
    }
    return bytes_[index];
}

void Rtc::write_register(unsigned index, std::uint8_t value) {
    catch_up();
    switch (index) {
        case kA:
            write_a(value);
            return;
        case kB:
            write_b(value);
            return;
        case kC:
        case kD:
            return;  // read-only
        default:
            break;
    }
    const bool time = (index <= kYear || index == kCentury) && index != kSecondsAlarm &&
                      index != kMinutesAlarm && index != kHoursAlarm;
    if (!time || held()) {
        bytes_[index] = value;
        return;
    }
    fill_time();
    bytes_[index] = value;
    take_time();
}

/// The time stops: its bytes now belong to the guest.
void Rtc::hold() {
    fill_time();
}

/// The time goes on from its bytes. The first update comes half a second after the divider starts
/// (MC146818A, "divider control").
void Rtc::let_go(bool divider_was_stopped) {
    if (divider_was_stopped) {
        offset_ += kSecond / 2 - time_now() % kSecond;
    }
    take_time();
}

void Rtc::write_a(std::uint8_t value) {
    const bool was_held = held();
    const bool was_stopped = divider_stopped();
    if (!was_held && (value & kDividerStopped) == kDividerStopped) {
        hold();
    }
    bytes_[kA] = value & 0x7f;
    seen_periods_ = periods_now();
    debt_.forgive();
    if (was_stopped && !divider_stopped()) {
        if (held()) {
            offset_ += kSecond / 2 -
                       time_now() % kSecond;  // SET still holds the bytes; the phase is set already
        } else {
            let_go(true);
        }
    }
}

void Rtc::write_b(std::uint8_t value) {
    const bool was_held = held();
    if (!was_held && (value & kSet) != 0) {
        hold();
    }
    if ((value & kSet) != 0) {
        value &= static_cast<std::uint8_t>(~kUpdateEnable);  // "UIE is cleared by SET going high"
    }
    bytes_[kB] = value;
    if (was_held && !held()) {
        let_go(false);
    }
    if ((value & kPeriodic) == 0) {
        debt_.forgive();
    }
    update_line();
}

void Rtc::raise(std::uint8_t flags) {
    bytes_[kC] |= flags;
}

/// Puts what has happened since the last look into register C.
void Rtc::catch_up() {
    catch_up_time();
    catch_up_periodic();
}

void Rtc::catch_up_time() {
    if (held()) {
        return;
    }
    const std::uint64_t second = time_now() / kSecond;
    if (second <= seen_second_) {
        return;
    }
    const auto alarm = next_alarm(seen_second_);
    raise(alarm && *alarm <= second ? kUpdate | kAlarm : kUpdate);
    seen_second_ = second;
}

/// An event that finds the last one still unread is owed, if the guest wants interrupts at all.
void Rtc::catch_up_periodic() {
    const std::uint64_t periods = periods_now();
    const bool wanted = (bytes_[kB] & kPeriodic) != 0;
    if (periods > seen_periods_) {
        const std::uint64_t events = periods - seen_periods_;
        const bool unread = (bytes_[kC] & kPeriodic) != 0;
        if (wanted) {
            debt_.owe(unread ? events : events - 1);
        }
        seen_periods_ = periods;
        raise(kPeriodic);
    } else if (wanted && (bytes_[kC] & kPeriodic) == 0 && clock_.now() >= owed_at_ && debt_.pay()) {
        raise(kPeriodic);
    }
}

void Rtc::update_line() {
    const bool active = (bytes_[kC] & bytes_[kB] & kFlags) != 0;
    bytes_[kC] = static_cast<std::uint8_t>((bytes_[kC] & kFlags) | (active ? kInterrupt : 0));
    if (!paused_) {
        irq_.set(active);
    }
}

/// Sets the wake-up for the enabled interrupts whose flags are not up already.
void Rtc::rearm() {
    std::uint64_t next = ~std::uint64_t{0};
    const std::uint8_t waiting = static_cast<std::uint8_t>(bytes_[kB] & ~bytes_[kC]);
    const auto waits = [waiting](std::uint8_t flag) { return (waiting & flag) != 0; };
    const auto consider = [&next](std::uint64_t when) { next = std::min(next, when); };
    if (waits(kUpdate) && !held()) {
        consider((time_now() / kSecond + 1) * kSecond - offset_);
    }
    if (waits(kAlarm) && !held()) {
        if (const auto alarm = next_alarm(seen_second_)) {
            consider(*alarm * kSecond - offset_);
        }
    }
    if (waits(kPeriodic) && period() != 0) {
        consider(from_ticks((seen_periods_ + 1) * period(), kDividerFrequency));
        if (debt_.owed() != 0) {
            consider(owed_at_);
        }
    }
    alarm_.set(next == ~std::uint64_t{0} ? std::nullopt : std::optional(next));
}

void Rtc::advance() {
    const MutexLock lock(mutex_);
    if (!paused_) {
        catch_up();
        update_line();
        rearm();
    }
}

Result<> Rtc::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    alarm_.clear();
    return ok();
}

Result<> Rtc::resume() {
    const MutexLock lock(mutex_);
    paused_ = false;
    update_line();
    rearm();
    return ok();
}

}  // namespace strata::devices
