// Stream: moving bytes.
#include "block/nbd/stream.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace strata::block::nbd {
namespace {

constexpr std::size_t kBuffer = 16U << 10, kTlsInput = 32U << 10, kTlsRecord = 16U << 10;
constexpr std::size_t kMaxGathered = 1U << 20;
constexpr std::chrono::milliseconds kQueueFull{5};
constexpr int kKeepIdle = 30, kKeepInterval = 10, kKeepCount = 4;

/// Small requests go at once; a peer whose host vanished is noticed after a minute or so.
void tune(int fd) {
    int family = 0;
    socklen_t size = sizeof(family);
    if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0 ||
        (family != AF_INET && family != AF_INET6)) {
        return;
    }
    const int on = 1;
    // None of these matters enough to fail for.
    (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &kKeepIdle, sizeof(kKeepIdle));
    (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &kKeepInterval, sizeof(kKeepInterval));
    (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &kKeepCount, sizeof(kKeepCount));
}

bool again(int number) {
    return number == EAGAIN || number == EWOULDBLOCK;
}

void append(std::vector<iovec>& vectors, std::span<const std::byte> bytes) {
    if (!bytes.empty()) {
        // SAFETY: sending never stores through the vector.
        vectors.push_back({const_cast<std::byte*>(bytes.data()), bytes.size()});
    }
}

/// Takes `bytes` off the front.
void advance(std::span<iovec>& vectors, std::size_t bytes) {
    while (bytes != 0) {
        const std::size_t part = std::min(bytes, vectors.front().iov_len);
        vectors.front().iov_base = static_cast<std::byte*>(vectors.front().iov_base) + part;
        vectors.front().iov_len -= part;
        bytes -= part;
        if (vectors.front().iov_len == 0) {
            vectors = vectors.subspan(1);
        }
    }
}

}  // namespace

/// Waits until another coroutine has sent one's message, or leaves the sending to this one.
struct Stream::Turn {
    Outgoing& message;
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) const { message.waiter = self; }
    void await_resume() const noexcept {}
};

Stream::Stream(Loop& loop, UniqueFd socket, std::string peer)
    : loop_(loop), socket_(std::move(socket)), peer_(std::move(peer)), buffer_(kBuffer) {}

Result<std::unique_ptr<Stream>> Stream::adopt(Loop& loop, UniqueFd socket, std::string peer) {
    tune(socket.get());
    std::unique_ptr<Stream> stream(new Stream(loop, std::move(socket), std::move(peer)));
    stream->watch_ = STRATA_TRY(Loop::Watch::create(loop, stream->socket_.get()));
    return stream;
}

Task<std::unique_ptr<Stream>> Stream::connect(Loop& loop, Address address,
                                              std::chrono::milliseconds limit) {
    const auto deadline = Loop::Clock::now() + limit;
    std::vector<Candidate> candidates;
    if (address.is_unix()) {
        STRATA_CO_TRY(candidates, look_up(address, false));
    } else {
        auto found = co_await loop.offload([&address] { return look_up(address, false); });
        STRATA_CO_TRY(candidates, std::move(found));
    }
    Error last{ErrorKind::Unreachable, fmt::format("'{}' is no address", address.text())};
    for (const Candidate& each : candidates) {
        UniqueFd fd(::socket(each.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!fd) {
            last = Error::from_errno("cannot make a socket");
            continue;
        }
        const int number = fd.get();
        const auto milliseconds = static_cast<unsigned>(limit.count());
        (void)::setsockopt(number, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds,
                           sizeof(milliseconds));  // Unix sockets have none
        STRATA_CO_TRY(std::unique_ptr<Stream> stream, adopt(loop, std::move(fd), address.text()));
        // SAFETY: look_up() made these bytes of a sockaddr.
        const auto* name = reinterpret_cast<const sockaddr*>(each.bytes.data());
        const auto length = static_cast<socklen_t>(each.bytes.size());
        int status = ::connect(number, name, length) == 0 ? 0 : errno;
        while (status == EAGAIN &&
               Loop::Clock::now() < deadline) {  // a Unix socket's queue is full
            co_await loop.sleep(kQueueFull);
            status = ::connect(number, name, length) == 0 ? 0 : errno;
        }
        while (status == EINPROGRESS) {
            co_await stream->watch_->writable();
            socklen_t size = sizeof(status);
            (void)::getsockopt(number, SOL_SOCKET, SO_ERROR, &status,
                               &size);  // fails for no socket, which this is
            sockaddr_storage other{};
            size = sizeof(other);
            // SAFETY: as the call wants it.
            if (status == 0 &&
                ::getpeername(number, reinterpret_cast<sockaddr*>(&other), &size) != 0) {
                status = EINPROGRESS;  // a wake-up without cause
            }
        }
        if (status == 0) {
            co_return stream;
        }
        const Error reason =
            Error::from_errno(fmt::format("Failed to connect to '{}'",
                                          address.is_unix() ? address.path : address.text()),
                              status);
        last = Error{ErrorKind::Unreachable, reason.text(), status};
    }
    co_return last;
}

Error Stream::broken(std::string_view doing, int number) const {
    Error error =
        Error::from_errno(fmt::format("NBD connection with {}: {}", peer_, doing), number);
    return {ErrorKind::Unreachable, error.text(), number};
}

std::size_t Stream::from_buffer(std::span<std::byte> into) {
    const std::size_t part = std::min(into.size(), end_ - begin_);
    std::memcpy(into.data(), buffer_.data() + begin_, part);
    begin_ += part;
    return part;
}

bool Stream::take(std::span<std::byte> into) {
    if (end_ - begin_ < into.size()) {
        return false;
    }
    (void)from_buffer(into);
    return true;
}

Task<std::size_t> Stream::receive(Buffers into) {
    begin_ = end_ = 0;
    if (tls_ != nullptr) {
        co_return co_await receive_tls(into);
    }
    co_return co_await receive_plain(into);
}

Task<std::size_t> Stream::receive_plain(Buffers into) {
    std::vector<iovec> vectors;
    into.append_to(vectors);
    if (vectors.size() >= IOV_MAX) {
        vectors.resize(IOV_MAX);
    } else {
        vectors.push_back({buffer_.data(), buffer_.size()});
    }
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = vectors.size();
    for (;;) {
        const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
        if (got >= 0) {
            const auto bytes = static_cast<std::size_t>(got);
            end_ = bytes > into.size() ? bytes - into.size() : 0;
            co_return std::min(bytes, into.size());
        }
        if (again(errno)) {
            co_await watch_->readable();
        } else if (errno != EINTR) {
            co_return broken("receiving", errno);
        }
    }
}

Task<std::size_t> Stream::receive_raw(std::span<std::byte> buffer) {
    for (;;) {
        const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got >= 0) {
            co_return static_cast<std::size_t>(got);
        }
        if (again(errno)) {
            co_await watch_->readable();
        } else if (errno != EINTR) {
            co_return broken("receiving", errno);
        }
    }
}

// Straight into the first piece; a short one goes by way of our buffer.
Task<std::size_t> Stream::receive_tls(Buffers into) {
    std::vector<iovec> vectors;
    into.append_to(vectors);
    const bool direct = vectors.front().iov_len >= kBuffer;
    const std::span<std::byte> target =
        direct
            ? std::span(static_cast<std::byte*>(vectors.front().iov_base), vectors.front().iov_len)
            : std::span(buffer_);
    std::vector<std::byte> input;
    for (;;) {
        std::size_t got = 0;
        STRATA_CO_TRY(const TlsSession::Progress progress, tls_->read(target, got));
        if (progress == TlsSession::Progress::Ended) {
            co_return 0;
        }
        if (progress == TlsSession::Progress::Done) {
            if (direct) {
                co_return got;
            }
            end_ = got;
            const std::size_t part = std::min(got, into.size());
            into.slice(0, part).copy_from(std::span(buffer_).first(part));
            begin_ = part;
            co_return part;
        }
        input.resize(kTlsInput);
        STRATA_CO_TRY(const std::size_t bytes, co_await receive_raw(input));
        if (bytes == 0) {
            co_return broken("receiving",
                             ECONNRESET);  // without TLS's own goodbye: perhaps cut off
        }
        tls_->put_input(std::span(input).first(bytes));
    }
}

Task<> Stream::read(Buffers into) {
    std::size_t done = 0;
    if (begin_ != end_ && !into.empty()) {
        done = std::min(into.size(), end_ - begin_);
        into.slice(0, done).copy_from(std::span(buffer_).subspan(begin_, done));
        begin_ += done;
    }
    while (done < into.size()) {
        STRATA_CO_TRY(const std::size_t got, co_await receive(into.from(done)));
        if (got == 0) {
            co_return broken("the peer has gone", ECONNRESET);
        }
        done += got;
    }
    co_return ok();
}

Task<bool> Stream::read_or_end(std::span<std::byte> into) {
    if (begin_ == end_) {
        STRATA_CO_TRY(const std::size_t got, co_await receive(Buffers(into)));
        if (got == 0) {
            co_return false;
        }
        into = into.subspan(got);
    }
    STRATA_CO_TRY_VOID(co_await read(Buffers(into)));
    co_return true;
}

Task<> Stream::skip(std::uint64_t bytes) {
    std::array<std::byte, 4096> scratch{};
    while (bytes != 0) {
        const std::size_t part = std::min<std::uint64_t>(bytes, scratch.size());
        STRATA_CO_TRY_VOID(co_await read(Buffers(std::span(scratch).first(part))));
        bytes -= part;
    }
    co_return ok();
}

Task<> Stream::send(std::span<const std::byte> head, Buffers data, bool hurry) {
    Outgoing message{.head = head, .data = data};
    outgoing_.push_back(&message);
    while (!message.done) {
        if (sending_) {
            co_await Turn{message};
            continue;
        }
        sending_ = true;
        if (!hurry) {
            co_await loop_.yield();  // what others are about to send goes along
        }
        Result<> sent = co_await send_queued();
        if (!sent.ok() && send_error_.ok()) {
            send_error_ = std::move(sent);
        }
        sending_ = false;
        if (!outgoing_.empty()) {
            wake(*outgoing_.front());  // the next one to send
        }
    }
    co_return send_error_;
}

void Stream::wake(Outgoing& message) {
    if (message.waiter) {
        loop_.resume_later(std::exchange(message.waiter, {}));
    }
}

// Sends what is queued by now, up to a limit; the sender's own message is the first of it.
Task<> Stream::send_queued() {
    std::vector<iovec> vectors;
    std::vector<Outgoing*> batch;
    std::size_t bytes = 0;
    while (!outgoing_.empty() && bytes < kMaxGathered && vectors.size() < IOV_MAX) {
        Outgoing* next = outgoing_.front();
        outgoing_.pop_front();
        batch.push_back(next);
        append(vectors, next->head);
        next->data.append_to(vectors);
        bytes += next->head.size() + next->data.size();
    }
    Result<> sent = send_error_;
    if (sent.ok() && tls_ != nullptr) {
        sent = co_await encrypt(std::move(vectors));
    } else if (sent.ok()) {
        sent = co_await send_vectors(std::move(vectors));
    }
    if (!sent.ok() && send_error_.ok()) {
        send_error_ = sent;
    }
    for (Outgoing* each : batch) {
        each->done = true;
        wake(*each);
    }
    co_return sent;
}

Task<> Stream::send_vectors(std::vector<iovec> vectors) {
    std::span<iovec> left(vectors);
    while (!left.empty()) {
        msghdr message{};
        message.msg_iov = left.data();
        message.msg_iovlen = std::min<std::size_t>(left.size(), IOV_MAX);
        const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            advance(left, static_cast<std::size_t>(sent));
        } else if (again(errno)) {
            co_await watch_->writable();
        } else if (errno != EINTR) {
            co_return broken("sending", errno);
        }
    }
    co_return ok();
}

Task<> Stream::send_tls_output() {
    const std::vector<std::byte> output = tls_->take_output();
    std::vector<iovec> vectors;
    append(vectors, output);
    co_return co_await send_vectors(std::move(vectors));
}

Task<> Stream::encrypt(std::vector<iovec> vectors) {
    std::vector<std::byte> record;
    record.reserve(kTlsRecord);
    for (const iovec& each : vectors) {
        std::span<const std::byte> left(static_cast<const std::byte*>(each.iov_base), each.iov_len);
        while (!left.empty()) {
            const auto part = left.first(std::min(left.size(), kTlsRecord - record.size()));
            record.insert(record.end(), part.begin(), part.end());
            left = left.subspan(part.size());
            if (record.size() == kTlsRecord) {
                STRATA_CO_TRY_VOID(tls_->write(record));
                STRATA_CO_TRY_VOID(co_await send_tls_output());
                record.clear();
            }
        }
    }
    if (!record.empty()) {
        STRATA_CO_TRY_VOID(tls_->write(record));
    }
    co_return co_await send_tls_output();
}

Task<> Stream::start_tls(std::shared_ptr<const TlsCredentials> credentials, std::string host) {
    STRATA_CO_TRY(auto session, TlsSession::create(std::move(credentials), host));
    tls_ = std::move(session);
    std::vector<std::byte> input(kTlsInput);
    for (;;) {
        auto progress = tls_->shake_hands();
        Result<> sent = co_await send_tls_output();  // an alert, too
        if (!progress.ok()) {
            co_return std::move(progress).error();
        }
        if (!sent.ok() || *progress == TlsSession::Progress::Done) {
            co_return sent;
        }
        STRATA_CO_TRY(const std::size_t bytes, co_await receive_raw(input));
        if (bytes == 0) {
            co_return broken("the peer has gone while TLS was being set up", ECONNRESET);
        }
        tls_->put_input(std::span(input).first(bytes));
    }
}

void Stream::shut() {
    (void)::shutdown(socket_.get(),
                     SHUT_RDWR);  // fails if it is not connected, and then nothing is to be ended
    watch_->wake();
}

void Stream::end_input() {
    (void)::shutdown(socket_.get(), SHUT_RD);  // as above
    watch_->wake();
}

void Stream::end_output() {
    (void)::shutdown(socket_.get(), SHUT_WR);
}  // as above

TimeLimit::TimeLimit(Loop& loop, std::chrono::milliseconds limit, std::function<void()> expire)
    : expire_(std::move(expire)), alarm_(loop), gone_(loop) {
    loop.spawn(watch(limit), [this](const Result<>& /*done*/) {
        ended_ = true;
        gone_.wake_all();
    });
}

Task<> TimeLimit::watch(std::chrono::milliseconds limit) {
    co_await alarm_.until(Loop::Clock::now() + limit);
    if (!over_) {
        expired_ = true;
        expire_();
    }
    co_return ok();
}

Task<bool> TimeLimit::end() {
    over_ = true;
    alarm_.ring();
    while (!ended_) {
        co_await gone_.wait();
    }
    co_return expired_;
}

}  // namespace strata::block::nbd
