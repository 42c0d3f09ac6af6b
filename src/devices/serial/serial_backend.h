// SerialBackend, SerialPeer: the two ends of a serial cable: the host's stream and the guest's
// UART.
//
// Nothing is lost and nobody waits: each side takes what it has room for, and says when it has room
// again. A backend without a reader (no client, a closed pipe) takes everything and drops it, so
// that a guest never hangs on its console. Threads: write() and input_ready() come from vCPU
// threads; receive() and output_ready() from the event loop's thread. A caller holds no lock that
// the other side could need.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>

#include "base/result.h"

namespace strata::devices {

/// The UART, seen from the host.
class SerialPeer {
  public:
    virtual ~SerialPeer() = default;
    /// Offers input; answers how many bytes were taken. If not all, SerialBackend::input_ready()
    /// follows once there is room.
    virtual std::size_t receive(std::span<const std::byte> data) = 0;
    /// The backend has room again.
    virtual void output_ready() = 0;
};

/// The host's side.
class SerialBackend {
  public:
    virtual ~SerialBackend() = default;
    /// Plugs the UART in, before any traffic; nullptr unplugs it (on the event loop's thread or
    /// after it stopped).
    virtual void connect(SerialPeer* peer) = 0;
    /// Takes output without blocking; answers how many bytes were taken. If not all, output_ready()
    /// follows.
    virtual std::size_t write(std::span<const std::byte> data) = 0;
    /// The UART has room for input again.
    virtual void input_ready() = 0;
    /// Writes out what is still buffered, waiting at most `limit`. For an orderly end; the event
    /// loop must not run.
    virtual void flush(std::chrono::milliseconds limit) = 0;
};

/// No cable: drops all output, never has input.
class NullSerialBackend final : public SerialBackend {
  public:
    void connect(SerialPeer* /*peer*/) override {}
    std::size_t write(std::span<const std::byte> data) override { return data.size(); }
    void input_ready() override {}
    void flush(std::chrono::milliseconds /*limit*/) override {}
};

}  // namespace strata::devices
