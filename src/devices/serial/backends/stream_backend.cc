// StreamBackend: the buffer, the watches and the endings of a host stream.
//
// States: plugged (a descriptor to write to) or not (output is dropped). A fixed descriptor pair
// stays unplugged once its output broke; a pty is looked at every 100 ms while nobody has it open;
// a listener waits for its next client. Only the loop's thread reads, writes and changes watches;
// the mutex guards what vCPU threads share with it.
#include "devices/serial/backends/stream_backend.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mutex.h"
#include "devices/serial/backends/stream_backend_internal.h"

namespace strata::devices {
namespace {

constexpr std::size_t kOutputLimit = 64 * 1024;
constexpr std::size_t kWriteSize = 16 * 1024;
constexpr auto kProbeInterval = std::chrono::milliseconds(100);

ssize_t write_some(const StreamEnd& end, std::span<const std::byte> data) {
    return end.socket ? ::send(end.fd.get(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                      : ::write(end.fd.get(), data.data(), data.size());
}

ssize_t read_some(const StreamEnd& end, std::span<std::byte> data) {
    return end.socket ? ::recv(end.fd.get(), data.data(), data.size(), MSG_DONTWAIT)
                      : ::read(end.fd.get(), data.data(), data.size());
}

bool again(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

}  // namespace

StreamBackend::StreamBackend(io::EventLoop& loop, StreamKind kind, StreamEnd input,
                             StreamEnd output)
    : loop_(loop), kind_(kind), input_(std::move(input)), output_(std::move(output)) {
    const MutexLock lock(mutex_);
    plugged_ = output_.fd.valid();
}

StreamBackend::~StreamBackend() {
    unwatch(input_watch_);
    unwatch(output_watch_);
    unwatch(listen_watch_);
    loop_.cancel(probe_);
    if (!path_.empty()) {
        (void)::unlink(path_.c_str());  // the next listener would replace it anyhow
    }
}

void StreamBackend::start() {
    if (kind_ == StreamKind::Listener) {
        watch_listener();
    } else if (kind_ == StreamKind::Pty) {
        probe();
    } else if (input_.fd.valid()) {
        watch_input();
    }
}

void StreamBackend::listen(UniqueFd listener, std::string path) {
    listener_ = std::move(listener);
    path_ = std::move(path);
}

void StreamBackend::connect(SerialPeer* peer) {
    {
        const MutexLock lock(mutex_);
        peer_ = peer;
    }
    if (peer != nullptr) {
        post(&StreamBackend::pass_input);
    }
}

/// Runs a member on the loop's thread, unless this is gone by then.
void StreamBackend::post(void (StreamBackend::*work)()) {
    loop_.post([this, work, alive = std::weak_ptr<char>(alive_)] {
        if (!alive.expired()) {
            (this->*work)();
        }
    });
}

std::size_t StreamBackend::write(std::span<const std::byte> data) {
    const MutexLock lock(mutex_);
    if (!plugged_) {
        return data.size();
    }
    const std::size_t count =
        std::min(data.size(), kOutputLimit - std::min(kOutputLimit, pending_.size()));
    pending_.insert(pending_.end(), data.begin(),
                    data.begin() + static_cast<std::ptrdiff_t>(count));
    refused_ = refused_ || count < data.size();
    if (!draining_ && !pending_.empty()) {
        draining_ = true;
        post(&StreamBackend::drain);
    }
    return count;
}

void StreamBackend::input_ready() {
    post(&StreamBackend::pass_input);
}

/// Writes what the descriptor takes. Loop thread.
void StreamBackend::drain() {
    for (;;) {
        std::array<std::byte, kWriteSize> chunk{};
        std::size_t size = 0;
        {
            const MutexLock lock(mutex_);
            size = std::min(pending_.size(), chunk.size());
            std::copy_n(pending_.begin(), size, chunk.begin());
            draining_ = size != 0;
        }
        if (size == 0) {
            unwatch(output_watch_);
            return;
        }
        const ssize_t written = write_some(output_, std::span(chunk).first(size));
        if (written < 0 && again(errno)) {
            watch_output();
            return;
        }
        if (written <= 0) {
            hang_up();
            return;
        }
        took(static_cast<std::size_t>(written));
    }
}

/// Takes written bytes off the buffer, and tells the guest's side when it had been refused and half
/// of the buffer is free.
void StreamBackend::took(std::size_t count) {
    SerialPeer* peer = nullptr;
    {
        const MutexLock lock(mutex_);
        pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(
                                                                std::min(count, pending_.size())));
        if (refused_ && pending_.size() <= kOutputLimit / 2) {
            refused_ = false;
            peer = peer_;
        }
    }
    if (peer != nullptr) {
        peer->output_ready();
    }
}

/// Drops what was not written; from now on output is dropped at once.
void StreamBackend::unplug() {
    SerialPeer* peer = nullptr;
    {
        const MutexLock lock(mutex_);
        plugged_ = false;
        draining_ = false;
        pending_.clear();
        peer = std::exchange(refused_, false) ? peer_ : nullptr;
    }
    if (peer != nullptr) {
        peer->output_ready();
    }
}

/// The other side is gone. Loop thread.
void StreamBackend::hang_up() {
    unwatch(output_watch_);
    unplug();
    switch (kind_) {
        case StreamKind::Fixed:
            log::warn("serial output is closed: what the guest prints from now on is dropped");
            break;
        case StreamKind::Pty:
            unwatch(input_watch_);
            unread_.clear();
            probe_later();
            break;
        case StreamKind::Listener:
            unwatch(input_watch_);
            unread_.clear();
            input_.fd.reset();
            output_.fd.reset();
            watch_listener();
            break;
    }
}

void StreamBackend::plug() {
    const MutexLock lock(mutex_);
    plugged_ = true;
}

void StreamBackend::watch_input() {
    if (input_watch_ != 0 || !input_.fd.valid()) {
        return;
    }
    auto id = loop_.watch(input_.fd.get(), EPOLLIN, [this](std::uint32_t) { read_input(); });
    if (id) {
        input_watch_ = *id;
    } else if (id.error().system_errno() == EPERM) {
        post(&StreamBackend::read_input);  // a plain file is always readable
    } else {
        log::error("serial input stopped: {}", id.error().text());
    }
}

void StreamBackend::watch_output() {
    if (output_watch_ != 0) {
        return;
    }
    auto id = loop_.watch(output_.fd.get(), EPOLLOUT, [this](std::uint32_t) { drain(); });
    if (id) {
        output_watch_ = *id;
    } else {
        log::error("serial output stopped: {}", id.error().text());
        hang_up();
    }
}

void StreamBackend::watch_listener() {
    auto id = loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_client(); });
    if (id) {
        listen_watch_ = *id;
    } else {
        log::error("the serial socket takes no more clients: {}", id.error().text());
    }
}

void StreamBackend::unwatch(io::EventLoop::WatchId& id) {
    if (id != 0) {
        loop_.remove(std::exchange(id, 0));
    }
}

void StreamBackend::accept_client() {
    UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) {
        return;  // it went away again; the listener stays watched
    }
    UniqueFd second(::fcntl(client.get(), F_DUPFD_CLOEXEC, 0));
    if (!second) {
        log::error("a serial client is refused: no descriptor left");
        return;
    }
    unwatch(listen_watch_);  // one client at a time: the others wait in the backlog
    input_ = StreamEnd{std::move(client), true};
    output_ = StreamEnd{std::move(second), true};
    plug();
    watch_input();
}

void StreamBackend::read_input() {
    if (!unread_.empty() || !input_.fd.valid()) {
        return;
    }
    std::array<std::byte, 256> bytes{};
    const ssize_t count = read_some(input_, bytes);
    if (count < 0 && again(errno)) {
        watch_input();
        return;
    }
    if (count <= 0) {
        end_input();
        return;
    }
    unread_.assign(bytes.begin(), bytes.begin() + count);
    pass_input();
}

void StreamBackend::end_input() {
    if (kind_ != StreamKind::Fixed) {
        hang_up();
        return;
    }
    unwatch(input_watch_);
    input_.fd.reset();
}

/// Gives the UART what was read; while it has no room, nothing more is read. Loop thread.
void StreamBackend::pass_input() {
    SerialPeer* peer = nullptr;
    {
        const MutexLock lock(mutex_);
        peer = peer_;
    }
    if (!unread_.empty()) {
        const std::size_t taken = peer == nullptr ? 0 : peer->receive(unread_);
        unread_.erase(unread_.begin(), unread_.begin() + static_cast<std::ptrdiff_t>(taken));
    }
    if (!unread_.empty()) {
        unwatch(input_watch_);
    } else if (kind_ == StreamKind::Pty ? !probing_ : input_.fd.valid()) {
        watch_input();
    }
}

/// Looks whether somebody has the pty open. Loop thread.
void StreamBackend::probe() {
    probing_ = false;
    pollfd state{output_.fd.get(), POLLOUT, 0};
    if (::poll(&state, 1, 0) < 0 || (state.revents & POLLHUP) != 0) {
        unplug();
        probe_later();
        return;
    }
    plug();
    watch_input();
}

void StreamBackend::probe_later() {
    probing_ = true;
    probe_ = loop_.at(io::EventLoop::Clock::now() + kProbeInterval, [this] { probe(); });
}

void StreamBackend::flush(std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    for (;;) {
        std::vector<std::byte> rest;
        {
            const MutexLock lock(mutex_);
            rest.assign(pending_.begin(), pending_.end());
        }
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        if (rest.empty() || left.count() < 0 || !output_.fd.valid()) {
            return;
        }
        const ssize_t written = write_some(output_, rest);
        if (written > 0) {
            const MutexLock lock(mutex_);
            pending_.erase(pending_.begin(), pending_.begin() + written);
            continue;
        }
        if (written == 0 || !again(errno)) {
            return;
        }
        pollfd state{output_.fd.get(), POLLOUT, 0};
        (void)::poll(&state, 1,
                     static_cast<int>(left.count()));  // early or late: the loop looks again
    }
}

}  // namespace strata::devices
