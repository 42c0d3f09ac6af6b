// SerialLink: the four targets.
#include "cli/run/serial_link.h"

#include <array>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

namespace strata::cli {
namespace {

constexpr char kEscape = 0x1d;  // Ctrl-]

Result<UniqueFd> duplicate(int fd) {
    UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy.valid()) {
        return Error::from_errno("duplicating a descriptor");
    }
    return copy;
}

Result<sockaddr_un> unix_address(std::string_view option, const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("{} unix:{}: the path is too long for a socket", option, path)};
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

const sockaddr* as_sockaddr(const sockaddr_un& address) {
    // SAFETY: the sockets interface is defined in terms of this cast.
    return reinterpret_cast<const sockaddr*>(&address);
}

// True if somebody accepts connections at `address`.
bool is_served(const sockaddr_un& address) {
    const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return connect(probe.get(), as_sockaddr(address), sizeof address) == 0;
}

}  // namespace

SerialLink::SerialLink(io::EventLoop& loop, std::string option, Hooks hooks, UniqueFd link)
    : loop_(loop), option_(std::move(option)), hooks_(std::move(hooks)), link_(std::move(link)) {}

SerialLink::~SerialLink() {
    if (listening_) {
        loop_.remove(listen_watch_);
        (void)unlink(unlink_.c_str());  // somebody may have removed it
    }
}

Result<std::unique_ptr<SerialLink>> SerialLink::create(io::EventLoop& loop,
                                                       const api::SerialTarget& target, Hooks hooks,
                                                       UniqueFd& guest_end) {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
        return Error::from_errno("socketpair");
    }
    guest_end.reset(ends[1]);
    std::unique_ptr<SerialLink> link(
        new SerialLink(loop, target.option, std::move(hooks), UniqueFd(ends[0])));
    // Who comes and goes at a pty or a socket may miss something; nothing waits for them, and their
    // leaving is no loss.
    const bool visitors =
        target.kind == api::SerialKind::Pty || target.kind == api::SerialKind::Unix;
    link->output_ = std::make_unique<Pump>(
        loop, STRATA_TRY(duplicate(link->link_.get())),
        Pump::Hooks{{},
                    link->hooks_.on_guest_closed,
                    visitors ? std::function<void()>() : link->hooks_.on_output_lost},
        visitors);
    switch (target.kind) {
        case api::SerialKind::None:
            break;
        case api::SerialKind::Stdio:
            STRATA_TRY_VOID(link->open_stdio());
            break;
        case api::SerialKind::Pty:
            STRATA_TRY_VOID(link->open_pty());
            break;
        case api::SerialKind::File:
            STRATA_TRY_VOID(link->open_file(target.path));
            break;
        case api::SerialKind::Unix:
            STRATA_TRY_VOID(link->open_unix(target.path));
            break;
    }
    STRATA_TRY_VOID(link->output_->start());
    return link;
}

Result<> SerialLink::connect_input(UniqueFd source, std::function<void(std::string&)> filter,
                                   std::function<void()> closed) {
    input_ = std::make_unique<Pump>(loop_, std::move(source),
                                    Pump::Hooks{std::move(filter), std::move(closed), {}});
    UniqueFd sink = STRATA_TRY(duplicate(link_.get()));
    STRATA_TRY_VOID(input_->set_sink(std::move(sink)));
    return input_->start();
}

Result<> SerialLink::open_stdio() {
    UniqueFd output = STRATA_TRY(private_duplicate(STDOUT_FILENO, O_WRONLY));
    STRATA_TRY_VOID(output_->set_sink(std::move(output)));
    std::function<void(std::string&)> filter;
    if (isatty(STDIN_FILENO) != 0) {
        filter = [this](std::string& typed) {
            const auto escapes = std::erase(typed, kEscape);
            for (auto count = escapes; count > 0; --count) {
                hooks_.on_escape();
            }
        };
        if (tcgetpgrp(STDIN_FILENO) != getpgrp()) {
            return ok();  // in the background reading the terminal would stop us
        }
    }
    // The end of piped input is no reason to end the guest.
    return connect_input(STRATA_TRY(private_duplicate(STDIN_FILENO, O_RDONLY)), std::move(filter),
                         {});
}

Result<> SerialLink::open_pty() {
    UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    std::array<char, 128> name{};
    if (!master.valid() || grantpt(master.get()) != 0 || unlockpt(master.get()) != 0 ||
        ptsname_r(master.get(), name.data(), name.size()) != 0) {
        return Error::from_errno("opening a pseudo-terminal");
    }
    // Our own hold on the other side: without one, the master reports a hang-up until somebody
    // opens it.
    kept_.reset(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    termios settings{};
    if (!kept_.valid() || tcgetattr(kept_.get(), &settings) != 0) {
        return Error::from_errno("opening a pseudo-terminal");
    }
    cfmakeraw(&settings);
    (void)tcsetattr(kept_.get(), TCSANOW, &settings);  // whoever opens it sets what he likes
    announcement_ = fmt::format("{} on {}", what(), name.data());
    UniqueFd output = STRATA_TRY(duplicate(master.get()));
    STRATA_TRY_VOID(output_->set_sink(std::move(output)));
    return connect_input(std::move(master), {}, {});
}

Result<> SerialLink::open_file(const std::string& path) {
    UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0644));
    if (!file.valid()) {
        return Error::from_errno(fmt::format("{} file '{}'", option_, path));
    }
    return output_->set_sink(std::move(file));
}

Result<> SerialLink::listen_at(const std::string& path) {
    const sockaddr_un address = STRATA_TRY(unix_address(option_, path));
    if (is_served(address)) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("{} unix:{}: another program is listening there", option_, path)};
    }
    struct stat status {};
    if (lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) {
        (void)unlink(path.c_str());  // a left-over socket; bind reports if it is still there
    }
    kept_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!kept_.valid() || bind(kept_.get(), as_sockaddr(address), sizeof address) != 0 ||
        listen(kept_.get(), 1) != 0) {
        return Error::from_errno(fmt::format("{} unix socket '{}'", option_, path));
    }
    unlink_ = path;
    return ok();
}

Result<> SerialLink::open_unix(const std::string& path) {
    STRATA_TRY_VOID(listen_at(path));
    listen_watch_ =
        STRATA_TRY(loop_.watch(kept_.get(), EPOLLIN, [this](std::uint32_t) { accept_client(); }));
    listening_ = true;
    announcement_ = fmt::format("{} on socket {}", what(), path);
    return ok();
}

// One client at a time: the newest has the port.
void SerialLink::accept_client() {
    UniqueFd client(accept4(kept_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client.valid()) {
        return;  // gone again
    }
    auto copy = duplicate(client.get());
    if (!copy || !output_->set_sink(std::move(*copy)).ok()) {
        return;  // out of descriptors: the client sees its connection closed
    }
    (void)connect_input(std::move(client), {}, {});  // as above
}

}  // namespace strata::cli
