// DebugExit, DebugConsole, PostPort: what their ports answer.
#include "devices/misc/debug_ports.h"

#include <algorithm>

#include "devices/core/windows.h"

namespace strata::devices {
namespace {

constexpr std::uint8_t kConsolePresent = 0xe9;  ///< how a guest finds a Bochs console

void all_ones(std::span<std::byte> data) {
    std::fill(data.begin(), data.end(), std::byte{0xff});
}

}  // namespace

void DebugExit::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    from_integer(0, data);
}

void DebugExit::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset == 0) {
        exit_(static_cast<std::uint32_t>(to_integer(data)));
    }
}

void DebugConsole::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    all_ones(data);
    data[0] = std::byte{kConsolePresent};
}

void DebugConsole::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    sink_(data.first(1));
}

void PostPort::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    from_integer(code(), data);
}

void PostPort::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    code_.store(static_cast<std::uint8_t>(data[0]), std::memory_order_relaxed);
}

}  // namespace strata::devices
