// ControlClient: lines to and from a machine.
#include "cli/control/control_client.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/control/control_place.h"
#include "io/passed_fds.h"

namespace strata::cli {
namespace {

constexpr std::size_t kMaxAnswer = 1U << 20;

}  // namespace

Result<ControlClient> ControlClient::connect(std::string_view machine) {
    const std::string path = STRATA_TRY(control_path(machine));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);  // control_path() checked it
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // SAFETY: the socket API's own cast.
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        if (errno == ENOENT || errno == ECONNREFUSED) {
            return Error{
                ErrorKind::NotFound,
                fmt::format("no machine '{}' runs here (strata run … --name NAME)", machine)};
        }
        return Error::from_errno(fmt::format("machine '{}'", machine));
    }
    ControlClient client(std::move(fd));
    const api::Json hello = STRATA_TRY(client.next_line());
    const auto found = hello.find("strata");
    if (found == hello.end() || !found->is_object()) {
        return Error{ErrorKind::Failed, fmt::format("'{}' is no machine's control socket", path)};
    }
    client.machine_ = found->value("machine", std::string());
    client.folder_ = found->value("folder", std::string());
    return client;
}

std::string ControlClient::resolve(std::string_view path) const {
    return path.starts_with('/') ? std::string(path) : fmt::format("{}/{}", folder_, path);
}

Result<> ControlClient::send_line(const std::string& line, int fd) const {
    iovec piece{const_cast<char*>(line.data()), line.size()};  // SAFETY: sendmsg() only reads it
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    io::FdRoom<1> room;
    if (fd >= 0) {
        io::pass_fds(message, room.bytes, std::span(&fd, 1));
    }
    const ssize_t sent = sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(line.size())) {
        return sent < 0 ? Error::from_errno(fmt::format("machine '{}'", machine_))
                        : Error{ErrorKind::Failed, "the request was not taken whole"};
    }
    return ok();
}

Result<api::Json> ControlClient::next_line() {
    for (;;) {
        if (const std::size_t end = in_.find('\n'); end != std::string::npos) {
            const std::string line = in_.substr(0, end);
            in_.erase(0, end + 1);
            api::Json json = STRATA_TRY(api::parse_json(line));
            if (!json.is_object()) {
                return Error{ErrorKind::Failed, "the machine answered nonsense"};
            }
            return json;
        }
        std::array<char, 16384> bytes{};
        const ssize_t got = read(fd_.get(), bytes.data(), bytes.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return Error{ErrorKind::Unreachable, "the machine has ended"};
        }
        in_.append(bytes.data(), static_cast<std::size_t>(got));
        if (in_.size() > kMaxAnswer) {
            return Error{ErrorKind::Failed, "the machine answered too much"};
        }
    }
}

Result<api::Json> ControlClient::ask(api::ControlRequest request, int fd) {
    if (fd >= 0) {
        request.file.fd = 0;
    }
    api::Json line = api::to_json(request);
    line["id"] = next_id_;
    STRATA_TRY_VOID(send_line(api::dump_json(line) + "\n", fd));
    for (;;) {
        api::Json answer = STRATA_TRY(next_line());
        if (answer.contains("event")) {
            events_.push_back(std::move(answer));
            continue;
        }
        const auto id = answer.find("id");
        if (id == answer.end() || *id != next_id_) {
            continue;
        }
        ++next_id_;
        if (const auto error = answer.find("error"); error != answer.end()) {
            return api::error_from_json(*error);
        }
        return answer.value("result", api::Json::object());
    }
}

Result<> ControlClient::follow(const std::function<bool(const api::Json& event)>& visit) {
    for (;;) {
        std::vector<api::Json> events = std::exchange(events_, {});
        for (std::size_t i = 0; i < events.size(); ++i) {
            if (visit(events[i])) {
                events_.assign(events.begin() + static_cast<std::ptrdiff_t>(i) + 1, events.end());
                return ok();
            }
        }
        api::Json line = STRATA_TRY(next_line());
        if (line.contains("event")) {
            events_.push_back(std::move(line));
        }
    }
}

}  // namespace strata::cli
