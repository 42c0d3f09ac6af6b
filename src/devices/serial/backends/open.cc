// The makers of serial backends: opening descriptors so that they never block and nobody else
// notices.
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <pty.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "devices/serial/backends/stream_backend.h"
#include "devices/serial/backends/stream_backend_internal.h"

namespace strata::devices {
namespace {

Result<UniqueFd> duplicate(int fd) {
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) {
        return Error::from_errno(fmt::format("cannot use descriptor {} for a serial port", fd));
    }
    return copy;
}

/// An end of our own on the stream behind `fd`.
Result<StreamEnd> own_end(int fd, int access) {
    if (fd < 0) {
        return StreamEnd{};
    }
    struct stat info {};
    if (::fstat(fd, &info) != 0) {
        return Error::from_errno(fmt::format("cannot use descriptor {} for a serial port", fd));
    }
    if (S_ISSOCK(info.st_mode)) {
        return StreamEnd{STRATA_TRY(duplicate(fd)), true};
    }
    if (S_ISREG(info.st_mode)) {
        return StreamEnd{STRATA_TRY(duplicate(fd)), false};
    }
    // O_NONBLOCK belongs to the open file that other processes share; a second open is ours alone.
    UniqueFd own(::open(fmt::format("/proc/self/fd/{}", fd).c_str(),
                        access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (own) {
        return StreamEnd{std::move(own), false};
    }
    UniqueFd copy = STRATA_TRY(duplicate(fd));
    const int flags = ::fcntl(copy.get(), F_GETFL);
    if (flags < 0 || ::fcntl(copy.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
        return Error::from_errno(fmt::format("cannot make descriptor {} non-blocking", fd));
    }
    return StreamEnd{std::move(copy), false};
}

Result<std::unique_ptr<SerialBackend>> started(std::unique_ptr<StreamBackend> backend) {
    backend->start();
    return std::unique_ptr<SerialBackend>(std::move(backend));
}

Result<sockaddr_un> socket_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path)) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("socket path '{}' must have 1 to {} bytes", path,
                                 sizeof(address.sun_path) - 1)};
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

const sockaddr* generic(const sockaddr_un& address) {
    // SAFETY: sockaddr is the common initial part of all socket addresses; the size goes along.
    return reinterpret_cast<const sockaddr*>(&address);
}

/// Removes the socket file of a process that is gone. AlreadyExists if it lives, or if it is no
/// socket.
Result<> remove_stale(const std::string& path, const sockaddr_un& address) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
        return ok();
    }
    if (!S_ISSOCK(info.st_mode)) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("'{}' exists and is not a socket", path)};
    }
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(probe.get(), generic(address), sizeof(address)) == 0 || errno != ECONNREFUSED) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("another program listens at '{}'", path)};
    }
    if (::unlink(path.c_str()) != 0) {
        return Error::from_errno(fmt::format("cannot replace the old socket '{}'", path));
    }
    return ok();
}

}  // namespace

Result<std::unique_ptr<SerialBackend>> open_fd_backend(io::EventLoop& loop, int input, int output) {
    return started(std::make_unique<StreamBackend>(loop, StreamKind::Fixed,
                                                   STRATA_TRY(own_end(input, O_RDONLY)),
                                                   STRATA_TRY(own_end(output, O_WRONLY))));
}

Result<std::unique_ptr<SerialBackend>> open_stdio_backend(io::EventLoop& loop) {
    return open_fd_backend(loop, STDIN_FILENO, STDOUT_FILENO);
}

Result<std::unique_ptr<SerialBackend>> open_file_backend(io::EventLoop& loop,
                                                         const std::string& path) {
    UniqueFd file(::open(path.c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666));
    if (!file) {
        return Error::from_errno(fmt::format("cannot write the serial output to '{}'", path));
    }
    return started(std::make_unique<StreamBackend>(loop, StreamKind::Fixed, StreamEnd{},
                                                   StreamEnd{std::move(file), false}));
}

Result<std::unique_ptr<SerialBackend>> open_pty_backend(io::EventLoop& loop, std::string& name) {
    int master = -1;
    int slave = -1;
    termios raw{};
    ::cfmakeraw(&raw);
    raw.c_cflag |= CREAD;
    std::array<char, 128> path{};
    if (::openpty(&master, &slave, nullptr, &raw, nullptr) != 0) {
        return Error::from_errno("cannot make a pseudo-terminal for the serial port");
    }
    UniqueFd first(master);
    const UniqueFd opened_once(
        slave);  // only a slave that was open and is closed again reads as hung up
    if (const int error = ::ttyname_r(slave, path.data(), path.size()); error != 0) {
        return Error::from_errno("cannot name the pseudo-terminal", error);
    }
    if (::fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK) != 0 ||
        ::fcntl(master, F_SETFD, FD_CLOEXEC) != 0) {
        return Error::from_errno("cannot set up the pseudo-terminal");
    }
    UniqueFd second = STRATA_TRY(duplicate(master));
    name = path.data();
    auto backend =
        std::make_unique<StreamBackend>(loop, StreamKind::Pty, StreamEnd{std::move(first), false},
                                        StreamEnd{std::move(second), false});
    return started(std::move(backend));
}

Result<std::unique_ptr<SerialBackend>> open_unix_backend(io::EventLoop& loop,
                                                         const std::string& path) {
    const sockaddr_un address = STRATA_TRY(socket_address(path));
    STRATA_TRY_VOID(remove_stale(path, address));
    UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!listener || ::bind(listener.get(), generic(address), sizeof(address)) != 0 ||
        ::listen(listener.get(), 4) != 0) {
        return Error::from_errno(fmt::format("cannot listen at '{}'", path));
    }
    auto backend =
        std::make_unique<StreamBackend>(loop, StreamKind::Listener, StreamEnd{}, StreamEnd{});
    backend->listen(std::move(listener), path);
    return started(std::move(backend));
}

Result<std::unique_ptr<SerialBackend>> open_listener_backend(io::EventLoop& loop,
                                                             UniqueFd listener) {
    const int flags = ::fcntl(listener.get(), F_GETFL);
    if (flags < 0 || ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
        return Error::from_errno("cannot use the listening socket for a serial port");
    }
    auto backend =
        std::make_unique<StreamBackend>(loop, StreamKind::Listener, StreamEnd{}, StreamEnd{});
    backend->listen(std::move(listener), {});
    return started(std::move(backend));
}

}  // namespace strata::devices
