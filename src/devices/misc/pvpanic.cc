// Pvpanic: the two events.
#include "devices/misc/pvpanic.h"

#include "devices/core/windows.h"

namespace strata::devices {
namespace {

constexpr std::uint8_t kPanicked = 0x01;
constexpr std::uint8_t kCrashLoaded = 0x02;

}  // namespace

void Pvpanic::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    from_integer(kPanicked | kCrashLoaded, data);
}

void Pvpanic::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    const std::uint64_t value = to_integer(data);
    if ((value & kPanicked) != 0) {
        event_(GuestCrash::Panicked);
    } else if ((value & kCrashLoaded) != 0) {
        event_(GuestCrash::CrashLoaded);
    }
}

}  // namespace strata::devices
