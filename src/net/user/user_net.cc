// UserNet: the one file that knows libslirp.
#include "net/user/user_net.h"

#include <cerrno>
#include <deque>
#include <map>
#include <vector>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <libslirp.h>
#include <poll.h>
#include <sys/epoll.h>

#include "base/log.h"

namespace strata::net {
namespace {

constexpr std::size_t kHighWater =
    1U << 20;  ///< bytes waiting for the guest from which on sockets are left alone
constexpr std::size_t kLimit = 4U << 20;  ///< bytes from which on frames are dropped

in_addr ipv4(const char* text) {
    in_addr address{};
    STRATA_CHECK(::inet_pton(AF_INET, text, &address) == 1, "a bad constant address");
    return address;
}

in6_addr ipv6(const char* text) {
    in6_addr address{};
    STRATA_CHECK(::inet_pton(AF_INET6, text, &address) == 1, "a bad constant address");
    return address;
}

class SlirpBackend final : public NetBackend {
  public:
    explicit SlirpBackend(io::EventLoop& loop) : loop_(loop) {}
    ~SlirpBackend() override;
    Result<> start(const UserNetConfig& config);

    void attach(std::function<void()> readable) override;
    void send(std::span<const std::byte> frame) override;
    [[nodiscard]] std::optional<std::span<const std::byte>> peek() const override;
    void pop() override;
    [[nodiscard]] bool checksums_good() const override { return true; }
    [[nodiscard]] NetCounters counters() const override { return counters_; }

  private:
    using Clock = io::EventLoop::Clock;
    struct Watch {
        io::EventLoop::WatchId id = 0;
        std::uint32_t events = 0;
    };
    /// A timer of libslirp.
    struct Timer {
        SlirpBackend* owner = nullptr;
        SlirpTimerCb callback = nullptr;
        void* argument = nullptr;
        io::EventLoop::TimerId id = 0;
    };

    static const SlirpCb kCallbacks;
    static SlirpBackend& self(void* opaque) { return *static_cast<SlirpBackend*>(opaque); }
    Result<> add_forward(const Forward& forward);
    void take(std::span<const std::byte> frame);
    void schedule();
    void work();
    void update_watches();
    void set_watch(int fd, std::uint32_t events);
    void drop_watch(int fd);

    io::EventLoop& loop_;
    Slirp* slirp_ = nullptr;  // SAFETY: owned; libslirp's handle, freed in the destructor
    std::function<void()> readable_;
    /// Outlived by posted work, which looks here whether the backend still exists.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
    bool work_posted_ = false;
    bool readable_posted_ = false;
    io::EventLoop::TimerId timer_ = 0;
    std::vector<pollfd> polled_;
    std::map<int, Watch> watches_;
    std::deque<std::vector<std::byte>> frames_;
    std::size_t waiting_bytes_ = 0;
    NetCounters counters_;
};

const SlirpCb SlirpBackend::kCallbacks = {
    .send_packet = [](const void* data, std::size_t size, void* opaque) -> ssize_t {
        self(opaque).take({static_cast<const std::byte*>(data), size});
        return static_cast<ssize_t>(size);
    },
    .guest_error =
        [](const char* message, void* /*opaque*/) {
            static log::RateLimit limit;
            log::guest(limit, "the guest sent the user-mode network something odd reason='{}'",
                       message);
        },
    .clock_get_ns = [](void* /*opaque*/) -> std::int64_t {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
            .count();
    },
    .timer_new = [](SlirpTimerCb callback, void* argument, void* opaque) -> void* {
        auto timer = std::make_unique<Timer>();
        timer->owner = &self(opaque);
        timer->callback = callback;
        timer->argument = argument;
        return timer.release();  // libslirp gives it back to timer_free
    },
    .timer_free =
        [](void* timer, void* opaque) {
            const std::unique_ptr<Timer> owned(static_cast<Timer*>(timer));
            self(opaque).loop_.cancel(owned->id);
        },
    .timer_mod =
        [](void* timer, std::int64_t milliseconds, void* opaque) {
            auto& each = *static_cast<Timer*>(timer);
            self(opaque).loop_.cancel(each.id);
            each.id = self(opaque).loop_.at(
                Clock::time_point(std::chrono::milliseconds(milliseconds)), [&each] {
                    each.callback(each.argument);
                    each.owner->schedule();
                });
        },
    .register_poll_fd = [](int /*fd*/, void* /*opaque*/) {},
    .unregister_poll_fd = [](int fd, void* opaque) { self(opaque).drop_watch(fd); },
    .notify = [](void* opaque) { self(opaque).schedule(); },
    .init_completed = [](Slirp* /*slirp*/, void* /*opaque*/) {},
    .timer_new_opaque = nullptr,
};

SlirpBackend::~SlirpBackend() {
    *alive_ = false;
    loop_.cancel(timer_);
    if (slirp_ != nullptr) {
        ::slirp_cleanup(slirp_);
    }
    while (!watches_.empty()) {
        drop_watch(watches_.begin()->first);
    }
}

Result<> SlirpBackend::start(const UserNetConfig& config) {
    SlirpConfig options{};
    options.version = SLIRP_CONFIG_VERSION_MAX;
    options.restricted = config.restricted ? 1 : 0;
    options.in_enabled = true;
    options.vnetwork = ipv4("10.0.2.0");
    options.vnetmask = ipv4("255.255.255.0");
    options.vhost = ipv4("10.0.2.2");
    options.vdhcp_start = ipv4("10.0.2.15");
    options.vnameserver = ipv4("10.0.2.3");
    options.in6_enabled = config.ipv6;
    options.vprefix_addr6 = ipv6("fec0::");
    options.vprefix_len = 64;
    options.vhost6 = ipv6("fec0::2");
    options.vnameserver6 = ipv6("fec0::3");
    options.vhostname = config.hostname.c_str();
    slirp_ = ::slirp_new(&options, &kCallbacks, this);
    if (slirp_ == nullptr) {
        return Error{ErrorKind::Failed,
                     "cannot start the user-mode network (libslirp refused its configuration)"};
    }
    for (const Forward& forward : config.forwards) {
        STRATA_TRY_VOID(add_forward(forward));
    }
    return ok();
}

Result<> SlirpBackend::add_forward(const Forward& forward) {
    in_addr host{};
    if (::inet_pton(AF_INET, forward.host_address.c_str(), &host) != 1) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("port forward: '{}' is not an IPv4 address", forward.host_address)};
    }
    const bool udp = forward.transport == Transport::Udp;
    if (::slirp_add_hostfwd(slirp_, udp ? 1 : 0, host, forward.host_port, in_addr{},
                            forward.guest_port) != 0) {
        const int number = errno;
        return Error::from_errno(fmt::format("cannot listen on {} port {} of {} for the guest's "
                                             "port {}; choose another host port",
                                             udp ? "udp" : "tcp", forward.host_port,
                                             forward.host_address, forward.guest_port),
                                 number);
    }
    return ok();
}

void SlirpBackend::attach(std::function<void()> readable) {
    readable_ = std::move(readable);
    schedule();
}

void SlirpBackend::send(std::span<const std::byte> frame) {
    if (frame.size() < kMinFrame || frame.size() > kMaxFrame) {
        ++counters_.dropped;
        return;
    }
    ++counters_.frames_from_guest;
    // SAFETY: bytes are bytes; libslirp copies them before it returns.
    ::slirp_input(slirp_, reinterpret_cast<const std::uint8_t*>(frame.data()),
                  static_cast<int>(frame.size()));
    schedule();
}

/// A frame from libslirp. Called from inside send() and work(): the device is told later.
void SlirpBackend::take(std::span<const std::byte> frame) {
    if (waiting_bytes_ + frame.size() > kLimit || frame.size() > kMaxFrame) {
        ++counters_.dropped;
        return;
    }
    frames_.emplace_back(frame.begin(), frame.end());
    waiting_bytes_ += frame.size();
    if (!readable_posted_) {
        readable_posted_ = true;
        loop_.post([this, alive = alive_] {
            if (*alive) {
                readable_posted_ = false;
                if (readable_) {
                    readable_();
                }
            }
        });
    }
}

std::optional<std::span<const std::byte>> SlirpBackend::peek() const {
    return frames_.empty() ? std::nullopt
                           : std::optional(std::span<const std::byte>(frames_.front()));
}

void SlirpBackend::pop() {
    const bool was_high = waiting_bytes_ >= kHighWater;
    waiting_bytes_ -= frames_.front().size();
    frames_.pop_front();
    ++counters_.frames_to_guest;
    if (was_high && waiting_bytes_ < kHighWater) {
        schedule();
    }
}

void SlirpBackend::schedule() {
    if (!work_posted_) {
        work_posted_ = true;
        loop_.post([this, alive = alive_] {
            if (*alive) {
                work_posted_ = false;
                work();
            }
        });
    }
}

void SlirpBackend::work() {
    if (waiting_bytes_ < kHighWater) {
        const int ready = ::poll(polled_.data(), polled_.size(), 0);
        ::slirp_pollfds_poll(
            slirp_, ready < 0 ? 1 : 0,
            [](int index, void* opaque) -> int {
                const auto& polled = self(opaque).polled_;
                if (index < 0 || static_cast<std::size_t>(index) >= polled.size()) {
                    return 0;
                }
                const int events = polled[static_cast<std::size_t>(index)].revents;
                return ((events & POLLIN) != 0 ? SLIRP_POLL_IN : 0) |
                       ((events & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
                       ((events & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
                       ((events & POLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
                       ((events & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
            },
            this);
    }
    polled_.clear();
    std::uint32_t timeout = UINT32_MAX;
    ::slirp_pollfds_fill(
        slirp_, &timeout,
        [](int fd, int events, void* opaque) -> int {
            auto& polled = self(opaque).polled_;
            const int wanted = ((events & SLIRP_POLL_IN) != 0 ? POLLIN : 0) |
                               ((events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0) |
                               ((events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0);
            polled.push_back({fd, static_cast<short>(wanted), 0});
            return static_cast<int>(polled.size()) - 1;
        },
        this);
    update_watches();
    loop_.cancel(timer_);
    timer_ = 0;
    if (timeout != UINT32_MAX) {
        timer_ =
            loop_.at(Clock::now() + std::chrono::milliseconds(timeout), [this] { schedule(); });
    }
}

void SlirpBackend::update_watches() {
    std::map<int, std::uint32_t> wanted;
    if (waiting_bytes_ < kHighWater) {
        for (const pollfd& each : polled_) {
            wanted[each.fd] |= ((each.events & POLLIN) != 0 ? EPOLLIN : 0U) |
                               ((each.events & POLLOUT) != 0 ? EPOLLOUT : 0U) |
                               ((each.events & POLLPRI) != 0 ? EPOLLPRI : 0U);
        }
    }
    for (auto place = watches_.begin(); place != watches_.end();) {
        const int fd = (place++)->first;
        if (!wanted.contains(fd)) {
            drop_watch(fd);
        }
    }
    for (const auto& [fd, events] : wanted) {
        set_watch(fd, events);
    }
}

void SlirpBackend::set_watch(int fd, std::uint32_t events) {
    const auto place = watches_.find(fd);
    if (place != watches_.end()) {
        if (place->second.events == events) {
            return;
        }
        if (loop_.change(place->second.id, events).ok()) {
            place->second.events = events;
            return;
        }
        drop_watch(fd);  // the number belongs to another socket by now
    }
    const auto id = loop_.watch(fd, events, [this](std::uint32_t /*events*/) { schedule(); });
    if (id.ok()) {
        watches_.emplace(fd, Watch{*id, events});
    } else {
        log::warn("a socket of the user-mode network cannot be watched reason='{}'",
                  id.error().text());
    }
}

void SlirpBackend::drop_watch(int fd) {
    const auto place = watches_.find(fd);
    if (place != watches_.end()) {
        loop_.remove(place->second.id);
        watches_.erase(place);
    }
}

}  // namespace

Result<std::unique_ptr<NetBackend>> UserNet::create(const UserNetConfig& config,
                                                    io::EventLoop& loop) {
    auto backend = std::make_unique<SlirpBackend>(loop);
    STRATA_TRY_VOID(backend->start(config));
    return std::unique_ptr<NetBackend>(std::move(backend));
}

}  // namespace strata::net
