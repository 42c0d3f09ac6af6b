// UserNet: a network without privileges: libslirp, a TCP/IP stack in this process that speaks for
// the guest with sockets.
//
// The guest finds 10.0.2.0/24 with the gateway (and the host) at 10.0.2.2, DNS at 10.0.2.3 and
// itself at 10.0.2.15 by DHCP; with IPv6, fec0::/64 by router advertisement, gateway fec0::2, DNS
// fec0::3. libslirp wants to be asked which descriptors to poll before each wait; UserNet asks
// after each piece of work and keeps watches of the event loop in step. While many bytes wait for
// the guest, sockets are not watched, so that senders are slowed down instead of frames being
// dropped. State: connections do not survive a save and load of the machine; the guest sees them
// reset.
#pragma once

#include <memory>

#include "base/result.h"
#include "io/event_loop.h"
#include "net/net_backend.h"
#include "net/user/config.h"

namespace strata::net {

class UserNet {
  public:
    /// Opens the forwards' ports. The error of a port that is taken names it. The backend is
    /// destroyed on the loop's thread or after the loop stopped.
    static Result<std::unique_ptr<NetBackend>> create(const UserNetConfig& config,
                                                      io::EventLoop& loop);
};

}  // namespace strata::net
