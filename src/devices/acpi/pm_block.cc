// PmBlock: status, enable and control registers.
#include "devices/acpi/pm_block.h"

#include <utility>

namespace strata::devices {
namespace {

// PM1_STS and PM1_EN: ACPI 6.4, tables 4.11 and 4.12.
constexpr std::uint16_t kTimer = 1U << 0;
constexpr std::uint16_t kGlobal = 1U << 5;
constexpr std::uint16_t kPowerButton = 1U << 8;
constexpr std::uint16_t kSleepButton = 1U << 9;
constexpr std::uint16_t kRtc = 1U << 10;
constexpr std::uint16_t kEnables = kTimer | kGlobal | kPowerButton | kSleepButton | kRtc;

// PM1_CNT: table 4.13.
constexpr std::uint16_t kSciEnable = 1U << 0;
constexpr std::uint16_t kControlKept =
    0x1c03;  ///< SCI_EN, BM_RLD, SLP_TYP; GBL_RLS and SLP_EN read as 0
constexpr unsigned kSleepTypeShift = 10;
constexpr std::uint16_t kSleepEnable = 1U << 13;

constexpr std::string_view kSection = "pm-block";
constexpr std::uint16_t kVersion = 1;

std::uint16_t with_byte(std::uint16_t word, std::uint64_t index, std::uint8_t value) {
    return static_cast<std::uint16_t>(index == 0 ? (word & 0xff00) | value
                                                 : (word & 0x00ff) | value << 8);
}

std::uint8_t byte_of(std::uint16_t word, std::uint64_t index) {
    return static_cast<std::uint8_t>(word >> (8 * index));
}

}  // namespace

PmBlock::PmBlock(io::EventLoop& loop, PmTimer& timer, const io::MachineClock& clock,
                 bus::IrqLine& sci, std::function<void()> poweroff)
    : timer_(timer),
      sci_(sci),
      poweroff_(std::move(poweroff)),
      event_(
          "pm1-event", [this](std::uint64_t offset) { return read_event(offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_event(offset, value); }),
      control_(
          "pm1-control", [this](std::uint64_t offset) { return read_control(offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_control(offset, value); }),
      gpe0_(
          "gpe0", [this](std::uint64_t offset) { return read_gpe(offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_gpe(offset, value); }),
      alarm_(loop, clock, [this] { advance(); }) {
    const MutexLock lock(mutex_);
    control_value_ = kSciEnable;
    carries_seen_ = timer_.carries();
}

/// TMR_STS is set whenever the timer's top bit changed. 4.8.3.1.1.
void PmBlock::note_carry() {
    const std::uint64_t carries = timer_.carries();
    if (carries != carries_seen_) {
        carries_seen_ = carries;
        status_ |= kTimer;
    }
}

void PmBlock::update() {
    if (paused_) {
        return;
    }
    bool level = (status_ & enable_) != 0;
    for (std::size_t index = 0; index < gpe_status_.size(); ++index) {
        level = level || (gpe_status_[index] & gpe_enable_[index]) != 0;
    }
    sci_.set(level);
    const bool wake = (enable_ & kTimer) != 0 && (status_ & kTimer) == 0;
    alarm_.set(wake ? std::optional(timer_.next_carry()) : std::nullopt);
}

void PmBlock::advance() {
    const MutexLock lock(mutex_);
    if (!paused_) {
        note_carry();
        update();
    }
}

std::uint8_t PmBlock::read_event(std::uint64_t offset) {
    const MutexLock lock(mutex_);
    note_carry();
    if (offset < 2) {
        return byte_of(status_, offset);
    }
    return offset < kEventSize ? byte_of(enable_, offset - 2) : 0xff;
}

void PmBlock::write_event(std::uint64_t offset, std::uint8_t value) {
    const MutexLock lock(mutex_);
    note_carry();
    if (offset < 2) {
        status_ &= static_cast<std::uint16_t>(~with_byte(0, offset, value));  // written ones clear
    } else if (offset < kEventSize) {
        enable_ = with_byte(enable_, offset - 2, value) & kEnables;
    }
    update();
}

std::uint8_t PmBlock::read_control(std::uint64_t offset) {
    const MutexLock lock(mutex_);
    return offset < kControlSize ? byte_of(control_value_, offset) : 0xff;
}

void PmBlock::write_control(std::uint64_t offset, std::uint8_t value) {
    if (offset >= kControlSize) {
        return;
    }
    bool off = false;
    {
        const MutexLock lock(mutex_);
        const std::uint16_t written = with_byte(control_value_, offset, value);
        control_value_ = static_cast<std::uint16_t>((written & kControlKept) | kSciEnable);
        off = (written & kSleepEnable) != 0 && (written >> kSleepTypeShift & 7) == kSleepTypeS5;
    }
    if (off) {
        poweroff_();
    }
}

std::uint8_t PmBlock::read_gpe(std::uint64_t offset) {
    const MutexLock lock(mutex_);
    if (offset < gpe_status_.size()) {
        return gpe_status_[offset];
    }
    return offset < kGpeSize ? gpe_enable_[offset - gpe_status_.size()] : 0xff;
}

void PmBlock::write_gpe(std::uint64_t offset, std::uint8_t value) {
    const MutexLock lock(mutex_);
    if (offset < gpe_status_.size()) {
        gpe_status_[offset] &= static_cast<std::uint8_t>(~value);
    } else if (offset < kGpeSize) {
        gpe_enable_[offset - gpe_status_.size()] = value;
    }
    update();
}

bool PmBlock::press_power_button() {
    const MutexLock lock(mutex_);
    status_ |= kPowerButton;
    update();
    return (enable_ & kPowerButton) != 0;
}

void PmBlock::raise_gpe(unsigned gpe) {
    STRATA_CHECK(gpe < kGpes, "no such general-purpose event");
    const MutexLock lock(mutex_);
    gpe_status_[gpe / 8] |= static_cast<std::uint8_t>(1U << gpe % 8);
    update();
}

Result<> PmBlock::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    alarm_.clear();
    return ok();
}

Result<> PmBlock::resume() {
    const MutexLock lock(mutex_);
    paused_ = false;
    update();
    return ok();
}

Result<> PmBlock::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    writer.u16(status_);
    writer.u16(enable_);
    writer.u16(control_value_);
    writer.raw(std::as_bytes(std::span(gpe_status_)));
    writer.raw(std::as_bytes(std::span(gpe_enable_)));
    writer.u64(carries_seen_);
    writer.end();
    return ok();
}

Result<> PmBlock::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    status_ = reader.u16();
    enable_ = reader.u16() & kEnables;
    control_value_ = static_cast<std::uint16_t>((reader.u16() & kControlKept) | kSciEnable);
    reader.raw(std::as_writable_bytes(std::span(gpe_status_)));
    reader.raw(std::as_writable_bytes(std::span(gpe_enable_)));
    carries_seen_ = reader.u64();
    update();
    return reader.end();
}

}  // namespace strata::devices
