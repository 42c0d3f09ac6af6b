// Pit: its state section.
#include "devices/timer/pit.h"

namespace strata::devices {
namespace {

constexpr std::string_view kSection = "pit";
constexpr std::uint16_t kVersion = 1;

}  // namespace

void Pit::save_counter(state::StateWriter& writer, const Counter& counter) {
    writer.u8(counter.mode);
    writer.u8(static_cast<std::uint8_t>(counter.access));
    for (const bool value : {counter.bcd, counter.gate, counter.loaded, counter.high_next_read,
                             counter.high_next_write, counter.running, counter.latched.has_value(),
                             counter.latched_status.has_value()}) {
        writer.boolean(value);
    }
    writer.u8(counter.low_written);
    writer.u32(counter.count);
    writer.u32(counter.reload);
    writer.u64(counter.start);
    writer.u64(counter.held);
    writer.u16(counter.latched.value_or(0));
    writer.u8(counter.latched_status.value_or(0));
}

void Pit::load_counter(state::StateReader& reader, Counter& counter) {
    counter.mode = reader.u8();
    const std::uint8_t access = reader.u8();
    bool latched = false;
    bool latched_status = false;
    for (bool* value : {&counter.bcd, &counter.gate, &counter.loaded, &counter.high_next_read,
                        &counter.high_next_write, &counter.running, &latched, &latched_status}) {
        *value = reader.boolean();
    }
    counter.low_written = reader.u8();
    counter.count = reader.u32();
    counter.reload = reader.u32();
    counter.start = reader.u64();
    counter.held = reader.u64();
    const std::uint16_t number = reader.u16();
    const std::uint8_t status = reader.u8();
    counter.latched = latched ? std::optional(number) : std::nullopt;
    counter.latched_status = latched_status ? std::optional(status) : std::nullopt;
    const auto in_range = [](std::uint32_t count) { return count >= 1 && count <= 0x10000; };
    if (counter.mode > 5 || access < 1 || access > 3 || !in_range(counter.count) ||
        !in_range(counter.reload)) {
        reader.reject("a counter's mode or count that cannot be");
        counter = Counter{};
        return;
    }
    counter.access = static_cast<Access>(access);
}

Result<> Pit::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    for (const Counter& counter : counters_) {
        save_counter(writer, counter);
    }
    writer.boolean(speaker_);
    writer.u64(given_);
    writer.u64(ticks_);
    writer.u64(not_before_);
    writer.u64(owed_at_);
    writer.u64(debt_.owed());
    writer.end();
    return ok();
}

Result<> Pit::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    for (Counter& counter : counters_) {
        load_counter(reader, counter);
    }
    speaker_ = reader.boolean();
    given_ = reader.u64();
    ticks_ = reader.u64();
    not_before_ = reader.u64();
    owed_at_ = reader.u64();
    debt_.restore(reader.u64());
    rearm();
    return reader.end();
}

}  // namespace strata::devices
