// NetBackend: the host's side of a network interface: whole Ethernet frames, neither side ever
// waits.
//
// Frames to the guest queue up in the backend, which is bounded: it stops reading its sockets, or
// drops, when the guest does not take them (back-pressure). Frames from the guest are taken at once
// or dropped, as on a wire. Threads: all calls on the thread of the event loop that both sides live
// on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace strata::net {

/// The longest frame: a header, and what an IP packet can be.
inline constexpr std::size_t kMaxFrame = 14 + 65535;
inline constexpr std::size_t kMinFrame = 14;

/// Frames and bytes since creation; "to guest" counts what the guest took.
struct NetCounters {
    std::uint64_t frames_from_guest = 0;
    std::uint64_t frames_to_guest = 0;
    std::uint64_t dropped = 0;
};

class NetBackend {
  public:
    virtual ~NetBackend() = default;
    /// Plugs the interface in: `readable` is called, from the loop and never from inside another
    /// call, when peek() has got something. An empty function unplugs it.
    virtual void attach(std::function<void()> readable) = 0;
    /// Takes a frame from the guest, kMinFrame to kMaxFrame bytes.
    virtual void send(std::span<const std::byte> frame) = 0;
    /// The next frame to the guest, valid until pop(); nullopt if there is none.
    [[nodiscard]] virtual std::optional<std::span<const std::byte>> peek() const = 0;
    virtual void pop() = 0;
    /// True if the checksums in frames to the guest were made by the backend itself and need no
    /// check.
    [[nodiscard]] virtual bool checksums_good() const = 0;
    [[nodiscard]] virtual NetCounters counters() const = 0;
};

}  // namespace strata::net
