// Zygote: a small process that makes stub processes, forked before the VMM locks itself up.
//
// The VMM may not fork once guest code runs, and a fork of it would hold its secrets anyway. The
// zygote is forked from the VMM's single thread before any guest data is read, closes everything
// but its socket, locks itself up by the function it is given, and then serves two requests: "this
// is the RAM file" and "make a stub of this area file at this address". A new stub process shows
// nothing but its area, with both threads behind their system call filters (stub_code.S), when its
// first report arrives. It ends with the socket; the stubs end with it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "io/packet_socket.h"

namespace strata::engine::soft {

/// The signal that pulls a stub out of guest code; SIGKILL ends it. A sandbox has to allow
/// pidfd_send_signal() of both.
inline constexpr int kStubKick = 10;  // SIGUSR1

/// A process just made.
struct NewStub {
    UniqueFd process;
    int pid = 0;        ///< for its processor time, and to know its notifications by
    UniqueFd listener;  ///< of its notifications (stub_filter.h); none: the host cannot
};

class Zygote {
  public:
    /// Forks. `lock_up` runs in the zygote, as its last act before it serves (it keeps clone(),
    /// mmap(), prctl(), seccomp(), signals and sockets). `notify`: stubs are to tell by
    /// notifications that they wait. With one thread alive.
    static Result<std::unique_ptr<Zygote>> start(const std::function<Result<>()>& lock_up,
                                                 bool notify = host_notifies());
    /// Whether the host hands over by notifications quickly, and says so when a stub is dead.
    [[nodiscard]] static bool host_notifies();

    /// The file that stubs map from now on. Any thread.
    Result<> set_ram(int ram_fd);
    /// A stub of the area file `area_fd` (stub_layout.h, with code and orders filled in) at `base`.
    /// Any thread.
    Result<NewStub> make_stub(int area_fd, std::uint64_t base);

  private:
    Zygote(io::PacketSocket socket, bool notify) : notify_(notify), socket_(std::move(socket)) {}
    Result<io::Packet> receive() STRATA_REQUIRES(mutex_);
    [[nodiscard]] bool hears_of(const UniqueFd& process) const STRATA_REQUIRES(mutex_);
    Result<NewStub> ask(std::uint64_t base, int fd);

    const bool notify_;
    Mutex mutex_;
    io::PacketSocket socket_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::engine::soft
