// Fakes for device tests and fuzz targets: lines and sinks that record, and a bench whose time the
// test moves itself.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "bus/bus_device.h"
#include "bus/interrupt.h"
#include "devices/core/windows.h"
#include "io/event_loop.h"
#include "io/machine_clock.h"
#include "state/snapshottable.h"

namespace strata::devices {

/// Remembers its level and counts rises.
class FakeLine final : public bus::IrqLine {
  public:
    void set(bool asserted) override {
        rises += asserted && !level ? 1U : 0U;
        level = asserted;
    }
    bool level = false;
    unsigned rises = 0;
};

/// Keeps the last messages (at most 4096, for fuzz targets).
class FakeMsiSink final : public bus::MsiSink {
  public:
    void send(const bus::MsiMessage& message) override {
        if (messages.size() >= 4096) {
            messages.clear();
        }
        messages.push_back(message);
    }
    std::vector<bus::MsiMessage> messages;
};

/// A loop that nobody runs and a clock that stands: at(t) moves time, the test then calls the
/// device's advance().
class FakeTime {
  public:
    FakeTime() : loop(std::move(io::EventLoop::create()).value()) {
        clock.pause();
        clock.set(0);
    }
    void at(std::uint64_t nanoseconds) { clock.set(nanoseconds); }
    void pass(std::uint64_t nanoseconds) { clock.set(clock.now() + nanoseconds); }
    std::unique_ptr<io::EventLoop> loop;
    io::MachineClock clock;
};

/// Integer accesses to a BusDevice.
inline std::uint64_t peek(bus::BusDevice& device, std::uint64_t offset, std::size_t size = 1) {
    std::array<std::byte, 8> bytes{};
    device.read(offset, std::span(bytes).first(size));
    return to_integer(std::span(bytes).first(size));
}
inline void poke(bus::BusDevice& device, std::uint64_t offset, std::uint64_t value,
                 std::size_t size = 1) {
    std::array<std::byte, 8> bytes{};
    from_integer(value, bytes);
    device.write(offset, std::span(bytes).first(size));
}

/// The contract of every part: what save() writes, load() takes into a fresh one, and it says the
/// same again. Answers the stream, or nothing if a step failed.
inline std::vector<std::byte> transplant(state::Snapshottable& from, state::Snapshottable& to) {
    state::StateWriter first;
    if (!from.save(first).ok()) {
        return {};
    }
    state::StateReader reader(first.bytes());
    if (!to.load(reader).ok() || !reader.at_end()) {
        return {};
    }
    state::StateWriter second;
    if (!to.save(second).ok() || first.bytes() != second.bytes()) {
        return {};
    }
    return first.bytes();
}

/// True if load() refuses every truncation of `stream` without harm.
inline bool refuses_truncation(state::Snapshottable& target, const std::vector<std::byte>& stream) {
    for (std::size_t size = 0; size < stream.size(); ++size) {
        const std::span<const std::byte> cut(stream.data(), size);
        state::StateReader reader(cut);
        if (target.load(reader).ok()) {
            return false;
        }
    }
    return true;
}

}  // namespace strata::devices
