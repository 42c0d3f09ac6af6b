// Server: offers exports to NBD clients on a listening socket, all on one loop.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "block/nbd/server/session.h"

namespace strata::block::nbd {

struct ServerOptions {
    unsigned max_clients = 1;  ///< at a time, further ones wait in the socket's queue; 0: 1000
    bool persistent = false;   ///< go on when the last client has gone
    std::chrono::milliseconds stop_limit{
        5000};  ///< for a client that does not take its replies when the server stops
    std::function<void(const std::string&)>
        report;  ///< what ended a connection, if not its client; may be empty
};

class Server {
  public:
    static Result<std::unique_ptr<Server>> create(Loop& loop, UniqueFd listener,
                                                  ServerOptions options, SessionContext context);
    /// Serves until stop(), or until the last client has gone if that is wanted. All sessions have
    /// ended then.
    Task<> run();
    /// Takes no more clients and no more requests; run() ends when those under way have.
    void stop();
    [[nodiscard]] std::size_t clients() const { return sessions_.size(); }

  private:
    Server(Loop& loop, UniqueFd listener, ServerOptions options, SessionContext context)
        : loop_(loop),
          listener_(std::move(listener)),
          options_(std::move(options)),
          context_(std::move(context)),
          change_(loop) {}
    Task<> accept_all();
    void start(UniqueFd socket, std::string peer);
    void session_ended(std::list<Session>::iterator session, const Result<>& result);

    Loop& loop_;
    const UniqueFd listener_;
    const ServerOptions options_;
    const SessionContext context_;
    std::unique_ptr<Loop::Watch> watch_;
    std::list<Session> sessions_;
    WaitQueue change_;
    bool stopping_ = false;
};

}  // namespace strata::block::nbd
