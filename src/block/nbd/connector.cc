// Connector, ConnectionOpener: asking, connecting, handing over.
#include "block/nbd/connector.h"

#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/text.h"
#include "block/nbd/stream.h"

namespace strata::block::nbd {
namespace {

constexpr int kConnectLimit = 20000;  // ms, for each address that a name has

bool readable_now(int fd) {
    pollfd wanted{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&wanted, 1, 0) > 0;
}

Error over() {
    return {ErrorKind::WrongState, "nobody makes connections for this disk any more", EIO};
}

}  // namespace

std::optional<Result<UniqueFd>> ChannelConnector::take_answer(io::Packet packet,
                                                              std::uint64_t number) {
    const std::string_view text = packet.text;
    const std::size_t space = text.find(' ');
    const auto said = parse_integer(text.substr(0, space), 0, INT64_MAX);
    if (!said || *said != number) {
        return std::nullopt;
    }
    if (packet.fds.size() == 1) {
        return Result<UniqueFd>(std::move(packet.fds[0]));
    }
    const std::string_view why = space == std::string_view::npos ? "" : text.substr(space + 1);
    return Result<UniqueFd>(Error{ErrorKind::Unreachable, std::string(why), EIO});
}

Task<UniqueFd> ChannelConnector::connect(Loop& loop, std::chrono::milliseconds limit) {
    const std::uint64_t number = ++number_;
    if (!channel_.try_send(std::to_string(number)).ok()) {
        co_return over();
    }
    STRATA_CO_TRY(const auto watch, Loop::Watch::create(loop, channel_.fd()));
    bool expired = false;
    TimeLimit patience(loop, limit, [&] {
        expired = true;
        watch->wake();
    });
    std::optional<Result<UniqueFd>> answer;
    while (!answer && !expired) {
        if (!readable_now(channel_.fd())) {
            co_await watch->readable();
            continue;
        }
        auto packet = channel_.receive();
        if (!packet || !packet->has_value()) {
            answer.emplace(over());
        } else {
            answer = take_answer(std::move(**packet), number);
        }
    }
    (void)co_await patience.end();  // `expired` says it
    if (!answer) {
        co_return Error{ErrorKind::Unreachable, "no connection was made in time", ETIMEDOUT};
    }
    co_return std::move(*answer);
}

Result<std::pair<std::unique_ptr<ConnectionOpener>, UniqueFd>> ConnectionOpener::create(
    Address address) {
    auto ends = STRATA_TRY(io::PacketSocket::pair());
    std::unique_ptr<ConnectionOpener> opener(
        new ConnectionOpener(std::move(address), {}, std::move(ends.first)));
    return std::pair(std::move(opener), std::move(ends.second).release());
}

Result<std::pair<std::unique_ptr<ConnectionOpener>, UniqueFd>> ConnectionOpener::create(
    std::function<Result<UniqueFd>()> connect) {
    auto ends = STRATA_TRY(io::PacketSocket::pair());
    std::unique_ptr<ConnectionOpener> opener(
        new ConnectionOpener({}, std::move(connect), std::move(ends.first)));
    return std::pair(std::move(opener), std::move(ends.second).release());
}

Result<> ConnectionOpener::start() {
    try {
        thread_ = std::thread([this] { work(); });
    } catch (const std::system_error& error) {
        return Error::from_errno("cannot start a thread for connections", error.code().value());
    }
    return ok();
}

ConnectionOpener::~ConnectionOpener() {
    (void)::shutdown(channel_.fd(), SHUT_RDWR);  // fails if the other end has gone: as good
    if (thread_.joinable()) {
        thread_.join();
    }
}

void ConnectionOpener::work() {
    serve();
    over_.store(true, std::memory_order_release);
}

void ConnectionOpener::serve() const {
    for (;;) {
        auto packet = channel_.receive();
        if (!packet || !packet->has_value()) {
            return;
        }
        // Of requests that came meanwhile only the last is waited for.
        while (readable_now(channel_.fd())) {
            packet = channel_.receive();
            if (!packet || !packet->has_value()) {
                return;
            }
        }
        const std::string number = (**packet).text.substr(0, (**packet).text.find(' '));
        const auto socket = connect();
        const auto sent = socket ? channel_.send(number, {socket->get()})
                                 : channel_.send(number + " " + socket.error().text());
        if (!sent) {
            return;
        }
    }
}

Result<UniqueFd> ConnectionOpener::connect() const {
    if (connect_) {
        return connect_();
    }
    Error last{ErrorKind::Unreachable, fmt::format("'{}' is no address", address_.text())};
    for (const Candidate& each : STRATA_TRY(look_up(address_, false))) {
        auto socket = connect_to(each);
        if (socket) {
            return socket;
        }
        last = socket.error();
    }
    return last;
}

Result<UniqueFd> ConnectionOpener::connect_to(const Candidate& candidate) const {
    UniqueFd fd(::socket(candidate.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) {
        return Error::from_errno("cannot make a socket");
    }
    // SAFETY: look_up() made these bytes of a sockaddr.
    const auto* name = reinterpret_cast<const sockaddr*>(candidate.bytes.data());
    int status =
        ::connect(fd.get(), name, static_cast<socklen_t>(candidate.bytes.size())) == 0 ? 0 : errno;
    if (status == EINPROGRESS) {
        std::array<pollfd, 2> wanted{{{.fd = fd.get(), .events = POLLOUT, .revents = 0},
                                      {.fd = channel_.fd(), .events = 0, .revents = 0}}};
        const int ready = ::poll(wanted.data(), wanted.size(), kConnectLimit);
        socklen_t size = sizeof(status);
        if (ready <= 0 || wanted[1].revents != 0) {
            status = ETIMEDOUT;
        } else if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &status, &size) != 0) {
            status = errno;
        }
    }
    if (status != 0) {
        return Error::from_errno(fmt::format("Failed to connect to '{}'",
                                             address_.is_unix() ? address_.path : address_.text()),
                                 status);
    }
    return fd;
}

}  // namespace strata::block::nbd
