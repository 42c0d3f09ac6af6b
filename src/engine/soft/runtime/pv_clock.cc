// PvClock: scaling and the structures in guest memory.
#include "engine/soft/runtime/pv_clock.h"

#include <atomic>
#include <cstddef>
#include <ctime>

#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {
namespace {

/// struct pvclock_vcpu_time_info.
struct TimeInfo {
    std::uint32_t version;
    std::uint32_t pad0;
    std::uint64_t tsc_timestamp;
    std::uint64_t system_time;
    std::uint32_t tsc_to_system_mul;
    std::int8_t tsc_shift;
    std::uint8_t flags;
    std::uint8_t pad[2];
};
static_assert(sizeof(TimeInfo) == 32);

/// struct pvclock_wall_clock.
struct WallClock {
    std::uint32_t version;
    std::uint32_t seconds;
    std::uint32_t nanoseconds;
};
static_assert(sizeof(WallClock) == 12);

constexpr std::uint8_t kTscStable = 1;
constexpr std::uint64_t kBillion = 1'000'000'000;

// Writes a structure that starts with a version: odd while the rest changes. A guest address
// outside of RAM is the guest's own mistake: the write is dropped.
template <typename T>
void publish(memory::GuestRam& ram, std::uint64_t address, T value) {
    const memory::GuestAddress at(address);
    const auto version = ram.load<std::uint32_t>(at);
    if (!version.ok()) {
        return;
    }
    value.version = (version.value() | 1) + 2;  // odd, and other than before
    (void)ram.store(at, value.version);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    (void)ram.store(at, value);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    (void)ram.store(at, value.version + 1);
}

}  // namespace

PvScale pv_scale(std::uint64_t tsc_khz) noexcept {
    std::uint64_t scaled = kBillion;
    std::uint64_t ticks = tsc_khz * 1000;
    int shift = 0;
    while (ticks > scaled * 2 || (ticks >> 32) != 0) {
        ticks >>= 1;
        --shift;
    }
    while (ticks <= scaled || (scaled >> 32) != 0) {
        if ((scaled >> 32) != 0 || (ticks >> 31) != 0) {
            scaled >>= 1;
        } else {
            ticks <<= 1;
        }
        ++shift;
    }
    return {static_cast<std::uint32_t>((scaled << 32) / ticks), static_cast<std::int8_t>(shift)};
}

std::uint64_t pv_scale_cycles(const PvScale& scale, std::uint64_t cycles) noexcept {
    __extension__ using Wide = unsigned __int128;
    const std::uint64_t shifted = scale.shift < 0 ? cycles >> -scale.shift : cycles << scale.shift;
    return static_cast<std::uint64_t>((static_cast<Wide>(shifted) * scale.multiplier) >> 32);
}

PvClock::PvClock(std::uint64_t tsc_khz) : scale_(pv_scale(tsc_khz)), base_tsc_(host_tsc()) {}

std::uint64_t PvClock::now() const noexcept {
    return base_ns_ + pv_scale_cycles(scale_, host_tsc() - base_tsc_);
}

void PvClock::set(std::uint64_t nanoseconds) noexcept {
    base_ns_ = nanoseconds;
    base_tsc_ = host_tsc();
    ++generation_;
}

void PvClock::write_page(memory::GuestRam& ram, std::uint64_t address,
                         std::uint64_t tsc_offset) const noexcept {
    TimeInfo info{};
    info.tsc_timestamp = base_tsc_ + tsc_offset;
    info.system_time = base_ns_;
    info.tsc_to_system_mul = scale_.multiplier;
    info.tsc_shift = scale_.shift;
    info.flags = kTscStable;
    publish(ram, address, info);
}

void PvClock::write_wall_clock(memory::GuestRam& ram, std::uint64_t address) const noexcept {
    timespec real{};
    (void)clock_gettime(CLOCK_REALTIME, &real);  // cannot fail with this clock
    const std::uint64_t at_zero = static_cast<std::uint64_t>(real.tv_sec) * kBillion +
                                  static_cast<std::uint64_t>(real.tv_nsec) - now();
    WallClock wall{};
    wall.seconds = static_cast<std::uint32_t>(at_zero / kBillion);
    wall.nanoseconds = static_cast<std::uint32_t>(at_zero % kBillion);
    publish(ram, address, wall);
}

}  // namespace strata::engine::soft
