// Rtc: between nanoseconds and the bytes of the time of day, the next alarm, and the state section.
#include <algorithm>
#include <chrono>

#include "devices/rtc/rtc.h"

namespace strata::devices {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr unsigned kCentury = 0x32;
constexpr unsigned kB = 11;
constexpr std::uint8_t kBinary = 0x04;
constexpr std::uint8_t k24Hours = 0x02;
constexpr std::uint8_t kPm = 0x80;
constexpr std::uint8_t kAnyAlarm = 0xc0;
/// Years that nanoseconds in 64 bits can hold.
constexpr int kFirstYear = 1970;
constexpr int kLastYear = 2553;

constexpr std::string_view kSection = "rtc";
constexpr std::uint16_t kVersion = 1;

}  // namespace

std::uint8_t Rtc::encode(unsigned value) const {
    return static_cast<std::uint8_t>((bytes_[kB] & kBinary) != 0 ? value
                                                                 : (value / 10 << 4) | value % 10);
}

unsigned Rtc::decode(std::uint8_t value) const {
    return (bytes_[kB] & kBinary) != 0 ? value : (value >> 4) * 10U + (value & 15U);
}

std::uint8_t Rtc::encode_hour(unsigned hour) const {
    if ((bytes_[kB] & k24Hours) != 0) {
        return encode(hour);
    }
    const unsigned shown = hour % 12 == 0 ? 12 : hour % 12;
    return static_cast<std::uint8_t>(encode(shown) | (hour >= 12 ? kPm : 0));
}

unsigned Rtc::decode_hour(std::uint8_t value) const {
    if ((bytes_[kB] & k24Hours) != 0) {
        return decode(value);
    }
    const unsigned shown = decode(value & static_cast<std::uint8_t>(~kPm)) % 12;
    return shown + ((value & kPm) != 0 ? 12 : 0);
}

/// The time into its bytes.
void Rtc::fill_time() {
    using namespace std::chrono;  // NOLINT(google-build-using-namespace): calendar arithmetic, in
                                  // this function only
    const std::uint64_t seconds_total = time_now() / kSecond;
    const auto of_day = static_cast<unsigned>(seconds_total % 86'400);
    const sys_days date{days{static_cast<int>(seconds_total / 86'400)}};
    const year_month_day civil{date};
    const auto year = static_cast<unsigned>(static_cast<int>(civil.year()));
    bytes_[0] = encode(of_day % 60);
    bytes_[2] = encode(of_day / 60 % 60);
    bytes_[4] = encode_hour(of_day / 3600);
    bytes_[6] = encode(weekday{date}.c_encoding() + 1);
    bytes_[7] = encode(static_cast<unsigned>(civil.day()));
    bytes_[8] = encode(static_cast<unsigned>(civil.month()));
    bytes_[9] = encode(year % 100);
    bytes_[kCentury] = encode(year / 100);
}

/// The bytes into the time; what cannot be is brought into range. The part of the second stays as
/// it is.
void Rtc::take_time() {
    using namespace std::chrono;  // NOLINT(google-build-using-namespace): as above
    const auto of_day = std::min(decode_hour(bytes_[4]), 23U) * 3600 +
                        std::min(decode(bytes_[2]), 59U) * 60 + std::min(decode(bytes_[0]), 59U);
    const int full_year =
        static_cast<int>(decode(bytes_[kCentury]) * 100 + std::min(decode(bytes_[9]), 99U));
    const year_month_day civil{year{std::clamp(full_year, kFirstYear, kLastYear)},
                               month{std::clamp(decode(bytes_[8]), 1U, 12U)},
                               day{std::clamp(decode(bytes_[7]), 1U, 31U)}};
    const auto date = static_cast<std::uint64_t>(sys_days{civil}.time_since_epoch().count());
    const std::uint64_t fraction = time_now() % kSecond;
    offset_ += (date * 86'400 + of_day) * kSecond + fraction - time_now();
    seen_second_ = time_now() / kSecond;
}

/// The first second after `after_second` at which the alarm bytes match; nothing if they never do.
/// A byte from C0h up matches all.
std::optional<std::uint64_t> Rtc::next_alarm(std::uint64_t after_second) const {
    const auto wanted = [](std::uint8_t byte, unsigned value) {
        return byte >= kAnyAlarm ? -1 : static_cast<int>(value);
    };
    const int hour = wanted(bytes_[5], decode_hour(bytes_[5]));
    const int minute = wanted(bytes_[3], decode(bytes_[3]));
    const int second = wanted(bytes_[1], decode(bytes_[1]));
    std::uint64_t candidate = after_second + 1;
    // Skips whole hours and minutes, so a day and a bit takes few steps.
    for (int step = 0; step < 400; ++step) {
        const auto of_day = static_cast<int>(candidate % 86'400);
        if (hour >= 0 && of_day / 3600 != hour) {
            candidate += static_cast<unsigned>(3600 - of_day % 3600);
        } else if (minute >= 0 && of_day / 60 % 60 != minute) {
            candidate += static_cast<unsigned>(60 - of_day % 60);
        } else if (second >= 0 && of_day % 60 != second) {
            ++candidate;
        } else {
            return candidate;
        }
    }
    return std::nullopt;
}

Result<> Rtc::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    writer.raw(std::as_bytes(std::span(bytes_)));
    writer.u8(index_);
    writer.u64(offset_);
    writer.u64(seen_second_);
    writer.u64(seen_periods_);
    writer.u64(owed_at_);
    writer.u64(debt_.owed());
    writer.end();
    return ok();
}

Result<> Rtc::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    reader.raw(std::as_writable_bytes(std::span(bytes_)));
    index_ = reader.u8() & 0x7f;
    offset_ = reader.u64();
    seen_second_ = reader.u64();
    seen_periods_ = reader.u64();
    owed_at_ = reader.u64();
    debt_.restore(reader.u64());
    if (!paused_) {
        rearm();
    }
    return reader.end();
}

}  // namespace strata::devices
