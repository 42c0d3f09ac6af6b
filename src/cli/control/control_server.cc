// ControlServer: a listener, clients, lines.
#include "cli/control/control_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/passed_fds.h"

namespace strata::cli {
namespace {

constexpr std::size_t kMaxClients = 16;
constexpr std::size_t kMaxAsked = 64;         ///< without a reply, of all clients together
constexpr std::size_t kMaxUnread = 1U << 20;  ///< bytes that a client has not taken

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);  // control_path() checked it
    return address;
}

const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);  // SAFETY: the socket API's own cast
}

bool somebody_listens(const sockaddr_un& address) {
    const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN;
}

/// The owner of this process, or root.
bool may_ask(int fd) {
    ucred peer{};
    socklen_t length = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::create(io::EventLoop& loop, std::string path,
                                                             std::string machine, Forward forward) {
    std::unique_ptr<ControlServer> server(
        new ControlServer(loop, std::move(path), std::move(machine), std::move(forward)));
    STRATA_TRY_VOID(server->listen());
    return server;
}

Result<> ControlServer::listen() {
    const auto failed = [this] {
        return Error::from_errno(fmt::format("control socket '{}'", path_));
    };
    const std::string folder = std::filesystem::absolute(path_).parent_path().string();
    // Two machines of one name that start at once come here one after the other.
    const UniqueFd door(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!door || flock(door.get(), LOCK_EX) != 0) {
        return failed();
    }
    const sockaddr_un address = address_of(path_);
    if (somebody_listens(address)) {
        return Error{
            ErrorKind::AlreadyExists,
            fmt::format("a machine is controlled at '{}' already: use another --name", path_)};
    }
    struct stat status {};
    if (lstat(path_.c_str(), &status) == 0) {
        if (!S_ISSOCK(status.st_mode)) {
            return Error{ErrorKind::AlreadyExists, fmt::format("'{}' is no socket", path_)};
        }
        (void)unlink(path_.c_str());  // of a machine that was killed; bind() tells if this fails
    }
    listener_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const mode_t before = umask(0177);
    const bool bound = listener_ && bind(listener_.get(), generic(address), sizeof address) == 0;
    (void)umask(before);
    if (!bound || ::listen(listener_.get(), SOMAXCONN) != 0 || lstat(path_.c_str(), &status) != 0) {
        return failed();
    }
    inode_ = status.st_ino;
    watch_ = STRATA_TRY(
        loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { on_connection(); }));
    return ok();
}

ControlServer::~ControlServer() {
    while (!clients_.empty()) {
        drop(clients_.begin()->first);
    }
    if (watch_ != 0) {
        loop_.remove(watch_);
    }
    struct stat status {};
    if (inode_ != 0 && lstat(path_.c_str(), &status) == 0 && status.st_ino == inode_) {
        (void)unlink(path_.c_str());  // if it cannot be removed the next machine does it
    }
}

void ControlServer::on_connection() {
    UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd || clients_.size() >= kMaxClients || !may_ask(fd.get())) {
        return;  // it is closed
    }
    const std::uint64_t number = next_client_++;
    auto watch = loop_.watch(fd.get(), EPOLLIN,
                             [this, number](std::uint32_t events) { on_client(number, events); });
    if (!watch) {
        return;
    }
    Client& client = clients_[number];
    client.fd = std::move(fd);
    client.watch = *watch;
    std::error_code none;  // a folder that is gone: relative names lead nowhere
    if (!say(client, {{"strata",
                       {{"protocol", 1},
                        {"machine", machine_},
                        {"process", getpid()},
                        {"folder", std::filesystem::current_path(none).string()}}}})) {
        drop(number);
    }
}

void ControlServer::on_client(std::uint64_t number, std::uint32_t events) {
    const auto found = clients_.find(number);
    if (found == clients_.end()) {
        return;
    }
    Client& client = found->second;
    const bool alive = ((events & EPOLLOUT) == 0 || flush(client)) &&
                       ((events & ~std::uint32_t{EPOLLOUT}) == 0 || receive(client, number));
    if (!alive) {
        drop(number);
    }
}

bool ControlServer::receive(Client& client, std::uint64_t number) {
    std::array<char, 16384> bytes{};
    io::FdRoom<api::kMaxControlFds> room;
    iovec piece{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = room.bytes.data();
    message.msg_controllen = room.bytes.size();
    const ssize_t got = recvmsg(client.fd.get(), &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) {
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    }
    std::vector<UniqueFd> fds = io::take_fds(message);
    client.in.append(bytes.data(), static_cast<std::size_t>(got));
    return (message.msg_flags & MSG_CTRUNC) == 0 && take_lines(client, number, std::move(fds));
}

// Descriptors come with the last bytes of what was received: they are of the line that ends there,
// or of the one that has only begun.
bool ControlServer::take_lines(Client& client, std::uint64_t number, std::vector<UniqueFd> fds) {
    const bool partial = client.in.back() != '\n';
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = client.in.find('\n', begin)) != std::string::npos;) {
        std::vector<UniqueFd> own = std::exchange(client.fds, {});
        if (end + 1 == client.in.size()) {
            std::ranges::move(fds, std::back_inserter(own));
            fds.clear();
        }
        const std::string line = client.in.substr(begin, end - begin);
        begin = end + 1;
        if (!take_line(client, number, line, std::move(own))) {
            return false;
        }
    }
    client.in.erase(0, begin);
    if (partial) {
        std::ranges::move(fds, std::back_inserter(client.fds));
    }
    return client.in.size() <= api::kMaxControlLine && client.fds.size() <= api::kMaxControlFds;
}

bool ControlServer::take_line(Client& client, std::uint64_t number, std::string_view line,
                              std::vector<UniqueFd> fds) {
    auto request = api::control_line_from_text(line);
    if (!request) {
        return say(client, {{"id", nullptr}, {"error", api::error_json(request.error())}});
    }
    if (client.asked >= kMaxAsked || fds.size() > api::kMaxControlFds) {
        return false;
    }
    if (asked_.size() >= kMaxAsked) {
        const Error busy{ErrorKind::WrongState, "the machine is busy: ask again later"};
        return say(client, {{"id", std::move(request->id)}, {"error", api::error_json(busy)}});
    }
    ++client.asked;
    const std::uint64_t id = next_request_++;
    asked_[id] = {number, std::move(request->id)};
    forward_(id, std::move(request->body), std::move(fds));
    return true;
}

void ControlServer::reply(std::uint64_t id, const api::Json& body) {
    const auto found = asked_.find(id);
    if (found == asked_.end()) {
        return;
    }
    const Asked asked = std::move(found->second);
    asked_.erase(found);
    const auto client = clients_.find(asked.client);
    if (client == clients_.end()) {
        return;
    }
    --client->second.asked;
    api::Json line{{"id", asked.id}};
    line.update(body);
    if (!say(client->second, line)) {
        drop(asked.client);
    }
}

void ControlServer::tell(const api::Json& event) {
    std::vector<std::uint64_t> gone;
    for (auto& [number, client] : clients_) {
        if (!say(client, event)) {
            gone.push_back(number);
        }
    }
    for (const std::uint64_t number : gone) {
        drop(number);
    }
}

bool ControlServer::say(Client& client, const api::Json& line) {
    client.out += api::dump_json(line) + "\n";
    return client.out.size() <= kMaxUnread && flush(client);
}

bool ControlServer::flush(Client& client) {
    while (!client.out.empty()) {
        const ssize_t sent = send(client.fd.get(), client.out.data(), client.out.size(),
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return false;
        }
        if (sent < 0) {
            break;
        }
        client.out.erase(0, static_cast<std::size_t>(sent));
    }
    if (client.writing != !client.out.empty()) {
        client.writing = !client.out.empty();
        const std::uint32_t wanted = client.writing ? EPOLLIN | EPOLLOUT : EPOLLIN;
        return loop_.change(client.watch, wanted).ok();
    }
    return true;
}

void ControlServer::drop(std::uint64_t number) {
    const auto found = clients_.find(number);
    if (found != clients_.end()) {
        loop_.remove(found->second.watch);
        clients_.erase(found);
    }
}

}  // namespace strata::cli
