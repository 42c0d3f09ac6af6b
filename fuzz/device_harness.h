// DeviceHarness: turns fuzz input into register accesses and passing time.
//
// The input is a list of operations: a byte chooses window, size and direction, then offset and
// value follow. After each, a clock that only the harness moves may pass, and the device is brought
// up to date. In the end the state is saved and must load into the same device again. One header
// for all fuzz/device_* targets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <span>
#include <vector>

#include "bus/bus.h"
#include "devices/core/fakes.h"
#include "input.h"

namespace strata::fuzz {

/// What a target tells about its device.
struct Subject {
    std::vector<bus::BusDevice*> windows;
    std::uint64_t offset_mask = 0xff;
    std::function<void()> advance = [] {};
    /// Something else that may happen to the device (host input, lines), chosen by a byte.
    std::function<void(std::uint8_t)> poke = [](std::uint8_t) {};
    state::Snapshottable* state = nullptr;
};

inline void check_state(state::Snapshottable& device) {
    state::StateWriter writer;
    if (!device.save(writer).ok()) {
        std::abort();
    }
    state::StateReader reader(writer.bytes());
    if (!device.load(reader).ok() || !reader.at_end()) {
        std::abort();  // load() refuses what save() wrote
    }
}

/// A hostile stream: load() may refuse it, and must leave a device that still works.
inline void load_garbage(state::Snapshottable& device, Input& input) {
    state::StateWriter writer;
    if (!device.save(writer).ok()) {
        std::abort();
    }
    std::vector<std::byte> bytes = writer.bytes();
    for (int count = 0; count < 4 && !bytes.empty(); ++count) {
        bytes[input.take(2) % bytes.size()] = static_cast<std::byte>(input.take(1));
    }
    state::StateReader reader(bytes);
    (void)device.load(reader);  // either answer is right
}

inline void run(Input input, devices::FakeTime& time, const Subject& subject) {
    constexpr std::array<std::size_t, 4> kSizes{1, 2, 4, 8};
    constexpr unsigned kMaxOperations = 4096;
    for (unsigned count = 0; count < kMaxOperations && !input.empty(); ++count) {
        const std::uint64_t what = input.take(1);
        if ((what & 0xc0) == 0xc0) {
            // Time: up to 2^40 ns, by powers of two and a bit.
            time.pass((std::uint64_t{1} << (what & 0x1f)) << ((what & 0x20) != 0 ? 8 : 0) |
                      input.take(1));
            subject.advance();
        } else if ((what & 0xc0) == 0x80) {
            subject.poke(static_cast<std::uint8_t>(input.take(1)));
            if ((what & 0x3f) == 0x3f && subject.state != nullptr) {
                load_garbage(*subject.state, input);
            }
        } else {
            bus::BusDevice& window = *subject.windows[input.take(1) % subject.windows.size()];
            const std::size_t size = kSizes[what & 3];
            const std::uint64_t offset = input.take(2) & subject.offset_mask;
            if ((what & 0x40) != 0) {
                devices::poke(window, offset, input.take(size), size);
            } else {
                (void)devices::peek(window, offset, size);
            }
        }
    }
    if (subject.state != nullptr) {
        check_state(*subject.state);
    }
}

/// A port bus as one window.
class PortWindow final : public bus::BusDevice {
  public:
    PortWindow(bus::Bus& ports, std::vector<std::uint16_t> numbers)
        : ports_(ports), numbers_(std::move(numbers)) {}
    [[nodiscard]] std::string_view label() const override { return "ports"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override {
        (void)ports_.read(numbers_[offset % numbers_.size()], data);
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        (void)ports_.write(numbers_[offset % numbers_.size()], data);
    }

  private:
    bus::Bus& ports_;
    const std::vector<std::uint16_t> numbers_;
};

}  // namespace strata::fuzz
