// Pit: counters, control words and the speaker port.
#include "devices/timer/pit.h"

#include <algorithm>

#include "devices/core/ticks.h"

namespace strata::devices {
namespace {

constexpr std::uint64_t kControl = 3;
constexpr unsigned kReadBack = 3;

// Port 61h.
constexpr std::uint8_t kGate2 = 0x01;
constexpr std::uint8_t kSpeaker = 0x02;
constexpr std::uint8_t kRefresh = 0x10;
constexpr std::uint8_t kOut2 = 0x20;
constexpr std::uint64_t kRefreshTime = 15'085;  ///< nanoseconds between memory refreshes

constexpr std::uint32_t modulus(bool bcd) {
    return bcd ? 10'000 : 0x10000;
}

std::uint32_t from_bcd(std::uint16_t value) {
    const std::uint32_t number = (value & 15U) + 10U * (value >> 4 & 15U) +
                                 100U * (value >> 8 & 15U) + 1000U * (value >> 12 & 15U);
    return number % 10'000;
}

std::uint16_t to_bcd(std::uint32_t value) {
    return static_cast<std::uint16_t>(value % 10 | (value / 10 % 10) << 4 |
                                      (value / 100 % 10) << 8 | (value / 1000 % 10) << 12);
}

bool periodic(std::uint8_t mode) {
    return mode == 2 || mode == 3;
}
/// Started by a rising gate.
bool triggered(std::uint8_t mode) {
    return mode == 1 || mode == 5;
}

}  // namespace

Pit::Pit(io::EventLoop& loop, const io::MachineClock& clock, bus::IrqLine& irq)
    : clock_(clock),
      irq_(irq),
      ports_(
          "pit", [this](std::uint64_t offset) { return read_port(offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_port(offset, value); }),
      speaker_port_(
          "speaker", [this](std::uint64_t) { return read_speaker(); },
          [this](std::uint64_t, std::uint8_t value) { write_speaker(value); }),
      alarm_(loop, clock, [this] { advance(); }) {
    const MutexLock lock(mutex_);
    counters_[2].gate = false;
}

Result<> Pit::attach(bus::Bus& ports) {
    STRATA_TRY_VOID(ports.add(0x40, 4, ports_));
    return ports.add(0x61, 1, speaker_port_);
}

std::uint64_t Pit::ticks() const {
    const MutexLock lock(mutex_);
    return ticks_;
}

std::uint64_t Pit::tick_now() const {
    return to_ticks(clock_.now(), kFrequency);
}

std::uint64_t Pit::elapsed(const Counter& counter, std::uint64_t now) {
    return counter.running && now > counter.start ? now - counter.start : counter.held;
}

/// What the counting element shows. Datasheet, "Operation common to all modes" and each mode's
/// figure.
std::uint16_t Pit::value(const Counter& counter, std::uint64_t now) {
    if (!counter.loaded) {
        return 0;
    }
    const std::uint64_t passed = elapsed(counter, now);
    std::uint64_t number = 0;
    if (counter.mode == 2) {
        number = counter.count - passed % counter.count;
    } else if (counter.mode == 3) {
        number = counter.count - 2 * passed % counter.count;  // counts by two
    } else {
        number = counter.count + modulus(counter.bcd) - passed % modulus(counter.bcd);
    }
    number %= modulus(counter.bcd);
    return counter.bcd ? to_bcd(static_cast<std::uint32_t>(number))
                       : static_cast<std::uint16_t>(number);
}

bool Pit::out(const Counter& counter, std::uint64_t now) {
    if (!counter.loaded) {
        return counter.mode != 0;
    }
    const std::uint64_t passed = elapsed(counter, now);
    switch (counter.mode) {
        case 0:
            return passed >= counter.count;
        case 1:
            return !counter.running || passed >= counter.count;
        case 2:
            return passed % counter.count != counter.count - 1;
        case 3:
            return passed % counter.count < (counter.count + 1) / 2;
        case 4:
            return passed != counter.count;
        default:
            return !counter.running || passed != counter.count;
    }
}

/// The status byte of the read-back command.
std::uint8_t Pit::status(const Counter& counter, std::uint64_t now) {
    return static_cast<std::uint8_t>((out(counter, now) ? 0x80 : 0) | (counter.loaded ? 0 : 0x40) |
                                     static_cast<unsigned>(counter.access) << 4 |
                                     counter.mode << 1 | (counter.bcd ? 1 : 0));
}

std::uint8_t Pit::read_port(std::uint64_t offset) {
    const MutexLock lock(mutex_);
    return offset < kControl ? read_counter(counters_[offset])
                             : 0xff;  // the control word cannot be read
}

void Pit::write_port(std::uint64_t offset, std::uint8_t value) {
    const MutexLock lock(mutex_);
    if (offset < kControl) {
        write_count(static_cast<unsigned>(offset), value);
    } else if (offset == kControl) {
        write_control(value);
    }
}

std::uint8_t Pit::read_counter(Counter& counter) {
    if (counter.latched_status) {
        const std::uint8_t status = *counter.latched_status;
        counter.latched_status.reset();
        return status;
    }
    const std::uint16_t number = counter.latched.value_or(value(counter, tick_now()));
    const bool high = counter.access == Access::High ||
                      (counter.access == Access::LowHigh && counter.high_next_read);
    if (counter.access == Access::LowHigh) {
        counter.high_next_read = !counter.high_next_read;
    }
    if (!counter.high_next_read || counter.access != Access::LowHigh) {
        counter.latched.reset();  // read to its end
    }
    return static_cast<std::uint8_t>(high ? number >> 8 : number);
}

void Pit::write_control(std::uint8_t value) {
    const unsigned index = value >> 6;
    if (index == kReadBack) {
        read_back(value);
        return;
    }
    Counter& counter = counters_[index];
    const auto access = static_cast<Access>(value >> 4 & 3);
    if (access == Access::Latch) {
        if (!counter.latched) {
            counter.latched = Pit::value(counter, tick_now());
        }
        return;
    }
    const bool gate = counter.gate;
    const std::uint8_t mode = value >> 1 & 7;
    counter = Counter{};
    counter.gate = gate;
    counter.mode = mode > 5 ? mode & 3 : mode;  // 6 and 7 are 2 and 3
    counter.access = access;
    counter.bcd = (value & 1) != 0;
    if (index == 0) {
        restart_counter0();
    }
}

/// Bits 3-1 choose counters; bit 5 clear latches counts, bit 4 clear latches status.
void Pit::read_back(std::uint8_t value) {
    const std::uint64_t now = tick_now();
    for (unsigned index = 0; index < counters_.size(); ++index) {
        Counter& counter = counters_[index];
        if ((value >> (index + 1) & 1) == 0) {
            continue;
        }
        if ((value & 0x20) == 0 && !counter.latched) {
            counter.latched = Pit::value(counter, now);
        }
        if ((value & 0x10) == 0 && !counter.latched_status) {
            counter.latched_status = status(counter, now);
        }
    }
}

void Pit::write_count(unsigned index, std::uint8_t value) {
    Counter& counter = counters_[index];
    switch (counter.access) {
        case Access::Low:
            load_count(index, value);
            return;
        case Access::High:
            load_count(index, static_cast<std::uint16_t>(value << 8));
            return;
        default:
            break;
    }
    counter.high_next_write = !counter.high_next_write;
    if (!counter.high_next_write) {
        load_count(index, static_cast<std::uint16_t>(counter.low_written | value << 8));
        return;
    }
    counter.low_written = value;
    if (counter.mode == 0 && counter.loaded) {
        counter.loaded = false;  // mode 0: writing the first byte disables counting
        if (index == 0) {
            restart_counter0();
        }
    }
}

void Pit::load_count(unsigned index, std::uint16_t written) {
    Counter& counter = counters_[index];
    const std::uint32_t number = counter.bcd ? from_bcd(written) : written;
    counter.reload = number == 0 ? modulus(counter.bcd) : number;
    if (triggered(counter.mode)) {
        counter.count = counter.loaded ? counter.count : counter.reload;
        counter.loaded = true;  // waits for its trigger
        return;
    }
    counter.loaded = true;
    counter.count = counter.reload;
    counter.start = tick_now();
    counter.held = 0;
    counter.running = counter.gate;
    if (index == 0) {
        restart_counter0();
    }
}

/// Gate levels and edges: datasheet, "Gate pin operations summary".
void Pit::set_gate(Counter& counter, bool gate) {
    if (gate == counter.gate) {
        return;
    }
    counter.gate = gate;
    const std::uint64_t now = tick_now();
    if (!counter.loaded) {
        return;
    }
    if (triggered(counter.mode)) {
        if (gate) {
            counter.count = counter.reload;
            counter.start = now;
            counter.running = true;
        }
    } else if (periodic(counter.mode)) {
        counter.start = now;
        counter.held = 0;
        counter.running = gate;
    } else if (gate) {
        counter.start = now - counter.held;
        counter.running = true;
    } else {
        counter.held = elapsed(counter, now);
        counter.running = false;
    }
}

std::uint8_t Pit::read_speaker() {
    const MutexLock lock(mutex_);
    const bool refresh = (clock_.now() / kRefreshTime & 1) != 0;
    return static_cast<std::uint8_t>((counters_[2].gate ? kGate2 : 0) | (speaker_ ? kSpeaker : 0) |
                                     (refresh ? kRefresh : 0) |
                                     (out(counters_[2], tick_now()) ? kOut2 : 0));
}

void Pit::write_speaker(std::uint8_t value) {
    const MutexLock lock(mutex_);
    set_gate(counters_[2], (value & kGate2) != 0);
    speaker_ = (value & kSpeaker) != 0;
}

/// Counter 0 got a control word or a count: its line follows, its ticks begin anew.
void Pit::restart_counter0() {
    given_ = 0;
    debt_.forgive();
    if (!paused_) {
        irq_.set(out(counters_[0], tick_now()));
    }
    rearm();
}

/// A pulse of the output: low for a clock, then high, which is the edge that counts.
void Pit::tick() {
    ++ticks_;
    irq_.set(false);
    irq_.set(true);
}

void Pit::run_counter0() {
    const Counter& counter = counters_[0];
    if (!counter.loaded || !counter.running) {
        return;
    }
    const std::uint64_t now = clock_.now();
    const std::uint64_t ended = elapsed(counter, tick_now()) / counter.count;
    const std::uint64_t due = periodic(counter.mode) ? ended : std::min<std::uint64_t>(ended, 1);
    const std::uint64_t spacing = TickDebt::spacing(from_ticks(counter.count, kFrequency));
    if (due > given_ && now >= not_before_) {
        debt_.owe(due - given_ - 1);
        given_ = due;
    } else if (debt_.owed() == 0 || now < owed_at_ || !debt_.pay()) {
        return;
    }
    tick();
    not_before_ = now + (periodic(counter.mode) ? TickDebt::kSpacing : 0);
    owed_at_ = now + spacing;
}

void Pit::rearm() {
    const Counter& counter = counters_[0];
    const bool more = periodic(counter.mode) || given_ == 0;
    if (paused_ || !counter.loaded || !counter.running || triggered(counter.mode) || !more) {
        alarm_.clear();
        return;
    }
    const std::uint64_t regular =
        from_ticks(counter.start + (given_ + 1) * counter.count, kFrequency);
    const std::uint64_t next = std::max(regular, not_before_);
    alarm_.set(debt_.owed() != 0 ? std::min(next, owed_at_) : next);
}

void Pit::advance() {
    const MutexLock lock(mutex_);
    if (!paused_) {
        run_counter0();
        rearm();
    }
}

Result<> Pit::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    alarm_.clear();
    return ok();
}

Result<> Pit::resume() {
    const MutexLock lock(mutex_);
    if (paused_) {
        paused_ = false;
        irq_.set(out(counters_[0], tick_now()) || (given_ != 0 && counters_[0].mode != 0));
        rearm();
    }
    return ok();
}

}  // namespace strata::devices
