// ResetRegister: the bits of port CF9h.
#include "devices/acpi/reset_register.h"

#include <utility>

#include "devices/core/windows.h"

namespace strata::devices {
namespace {

constexpr std::uint8_t kSystemReset =
    0x02;  ///< hard rather than soft; both reset the whole machine here
constexpr std::uint8_t kResetCpu = 0x04;  ///< the reset happens when this bit rises
constexpr std::uint8_t kFullReset = 0x08;
constexpr std::uint64_t kOffset = ResetRegister::kPort - 0xcf8;

constexpr std::string_view kSection = "reset-register";
constexpr std::uint16_t kVersion = 1;

}  // namespace

ResetRegister::ResetRegister(std::function<void()> reset) : reset_(std::move(reset)) {}

bus::BusDevice& ResetRegister::overlay(bus::BusDevice& config_ports) {
    STRATA_CHECK(below_ == nullptr, "the reset register lies over one device");
    below_ = &config_ports;
    return overlay_;
}

void ResetRegister::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    const MutexLock lock(mutex_);
    from_integer(value_, data);
}

void ResetRegister::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    const auto value = static_cast<std::uint8_t>(to_integer(data));
    bool reset = false;
    {
        const MutexLock lock(mutex_);
        reset = (value & ~value_ & kResetCpu) != 0;
        value_ = value & (kSystemReset | kFullReset);  // RST_CPU is spent by the reset
    }
    if (reset) {
        reset_();
    }
}

void ResetRegister::Overlay::read(std::uint64_t offset, std::span<std::byte> data) {
    bus::BusDevice& device = offset == kOffset && data.size() == 1 ? reset_ : *below_;
    device.read(offset, data);
}

void ResetRegister::Overlay::write(std::uint64_t offset, std::span<const std::byte> data) {
    bus::BusDevice& device = offset == kOffset && data.size() == 1 ? reset_ : *below_;
    device.write(offset, data);
}

Result<> ResetRegister::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    writer.u8(value_);
    writer.end();
    return ok();
}

Result<> ResetRegister::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    value_ = reader.u8() & (kSystemReset | kFullReset);
    return reader.end();
}

}  // namespace strata::devices
