// Server: accepting clients.
#include "block/nbd/server/server.h"

#include <array>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace strata::block::nbd {
namespace {

constexpr unsigned kMaxClients = 1000;
constexpr std::chrono::milliseconds kNoDescriptors{100};

std::string peer_name(const sockaddr_storage& address, socklen_t length) {
    std::array<char, NI_MAXHOST> host{};
    std::array<char, NI_MAXSERV> port{};
    // SAFETY: as the call wants it.
    const auto* name = reinterpret_cast<const sockaddr*>(&address);
    if (address.ss_family != AF_UNIX &&
        ::getnameinfo(name, length, host.data(), host.size(), port.data(), port.size(),
                      NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        return fmt::format("{}:{}", host.data(), port.data());
    }
    return "a local client";
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(Loop& loop, UniqueFd listener, ServerOptions options,
                                               SessionContext context) {
    const int flags = ::fcntl(listener.get(), F_GETFL);
    if (flags < 0 || ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
        return Error::from_errno("cannot use the listening socket");
    }
    options.max_clients =
        options.max_clients == 0 ? kMaxClients : std::min(options.max_clients, kMaxClients);
    std::unique_ptr<Server> server(
        new Server(loop, std::move(listener), std::move(options), std::move(context)));
    server->watch_ = STRATA_TRY(Loop::Watch::create(loop, server->listener_.get()));
    return server;
}

Task<> Server::run() {
    Result<> done = co_await accept_all();
    stopping_ = true;
    for (Session& each : sessions_) {
        each.stop();
    }
    TimeLimit limit(loop_, options_.stop_limit, [this] {
        for (Session& each : sessions_) {
            each.cut_off();
        }
    });
    while (!sessions_.empty()) {
        co_await change_.wait();
    }
    STRATA_CO_TRY_VOID(co_await limit.end());
    co_return done;
}

Task<> Server::accept_all() {
    while (!stopping_) {
        if (sessions_.size() >= options_.max_clients) {
            co_await change_.wait();
            continue;
        }
        sockaddr_storage address{};
        socklen_t length = sizeof(address);
        // SAFETY: as the call wants it.
        UniqueFd socket(::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length,
                                  SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (socket) {
            start(std::move(socket), peer_name(address, length));
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            co_await watch_->readable();
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            co_await loop_.sleep(kNoDescriptors);  // some client will go
        } else if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EOPNOTSUPP) {
            co_return Error::from_errno("accepting NBD clients");
        }  // else that client is gone already
    }
    co_return ok();
}

void Server::start(UniqueFd socket, std::string peer) {
    auto stream = Stream::adopt(loop_, std::move(socket), std::move(peer));
    if (!stream.ok()) {
        return;  // out of something; the client sees its connection end
    }
    const auto session = sessions_.emplace(sessions_.end(), loop_, std::move(*stream), context_);
    loop_.spawn(session->run(),
                [this, session](const Result<>& result) { session_ended(session, result); });
}

void Server::session_ended(std::list<Session>::iterator session, const Result<>& result) {
    if (!result.ok() && options_.report) {
        options_.report(result.error().text());
    }
    const bool counted = session->negotiated();
    sessions_.erase(session);
    if (counted && sessions_.empty() && !options_.persistent) {
        stop();
    }
    change_.wake_all();
}

void Server::stop() {
    stopping_ = true;
    watch_->wake();
    change_.wake_all();
}

}  // namespace strata::block::nbd
