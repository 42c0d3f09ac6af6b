// PacketSocket: sendmsg and recvmsg with descriptors.
#include "io/packet_socket.h"

#include <array>
#include <cerrno>

#include <sys/socket.h>

#include "io/passed_fds.h"

namespace strata::io {
Result<std::pair<PacketSocket, PacketSocket>> PacketSocket::pair() {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return Error::from_errno("socketpair");
    }
    return std::pair(PacketSocket(UniqueFd(ends[0])), PacketSocket(UniqueFd(ends[1])));
}

Result<> PacketSocket::try_send(std::string_view text, const std::vector<int>& fds) const {
    Result<> sent = send_with(text, fds, MSG_DONTWAIT);
    if (!sent.ok() && sent.error().system_errno() == EAGAIN) {
        return Error{ErrorKind::WrongState, "the other process is busy: try again later", EAGAIN};
    }
    return sent;
}

Result<> PacketSocket::send_with(std::string_view text, const std::vector<int>& fds,
                                 int flags) const {
    if (text.empty() || text.size() > kMaxPacket || fds.size() > kMaxPacketFds) {
        return Error{ErrorKind::InvalidArgument, "message over the limits of a packet"};
    }
    std::string copy(text);
    iovec part{copy.data(), copy.size()};
    FdRoom<kMaxPacketFds> room;
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    pass_fds(header, room.bytes, fds);
    ssize_t sent = 0;
    do {
        sent = sendmsg(fd_.get(), &header, MSG_NOSIGNAL | flags);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        if (errno == EPIPE || errno == ECONNRESET) {
            return Error{ErrorKind::Unreachable, "the other process has closed the connection",
                         errno};
        }
        return Error::from_errno("sendmsg");
    }
    return ok();
}

Result<std::optional<Packet>> PacketSocket::receive() const {
    Packet packet;
    packet.text.resize(kMaxPacket);
    iovec part{packet.text.data(), packet.text.size()};
    FdRoom<kMaxPacketFds> room;
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = room.bytes.data();
    header.msg_controllen = room.bytes.size();
    ssize_t got = 0;
    do {
        got = recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno != ECONNRESET) {
        return Error::from_errno("recvmsg");
    }
    if (got <= 0) {
        return std::optional<Packet>{};
    }
    packet.fds = take_fds(header);
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        return Error{ErrorKind::InvalidArgument, "message over the limits of a packet"};
    }
    packet.text.resize(static_cast<std::size_t>(got));
    return std::optional<Packet>(std::move(packet));
}

}  // namespace strata::io
