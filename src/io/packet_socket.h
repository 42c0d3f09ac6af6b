// PacketSocket: whole messages, with file descriptors, between two processes on this machine
// (AF_UNIX, SOCK_SEQPACKET).
//
// One message is one packet of at most kMaxPacket bytes and kMaxPacketFds descriptors. Received
// descriptors are close-on-exec and owned by the message. Not thread-safe: one thread sends and
// receives.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::io {

inline constexpr std::size_t kMaxPacket = 128U << 10;
inline constexpr std::size_t kMaxPacketFds = 64;

struct Packet {
    std::string text;
    std::vector<UniqueFd> fds;
};

class PacketSocket {
  public:
    explicit PacketSocket(UniqueFd fd) : fd_(std::move(fd)) {}
    /// Both ends of a new connection, close-on-exec.
    static Result<std::pair<PacketSocket, PacketSocket>> pair();

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] UniqueFd release() && { return std::move(fd_); }
    /// Sends one message; `fds` are borrowed. Blocks while the peer's queue is full. Unreachable if
    /// the peer is gone.
    Result<> send(std::string_view text, const std::vector<int>& fds = {}) const {
        return send_with(text, fds, 0);
    }
    /// As send(), but for a full queue: WrongState with EAGAIN then, and nothing was sent.
    Result<> try_send(std::string_view text, const std::vector<int>& fds = {}) const;
    /// The next message; waits for it. nullopt when the peer has closed. A message over the limits
    /// is an error.
    [[nodiscard]] Result<std::optional<Packet>> receive() const;

  private:
    Result<> send_with(std::string_view text, const std::vector<int>& fds, int flags) const;

    UniqueFd fd_;
};

}  // namespace strata::io
