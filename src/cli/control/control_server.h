// ControlServer: the control socket of a machine that this command runs.
//
// Clients send lines (api/control_protocol.h), with descriptors if a request has files; what they
// ask is handed on under a number of our own, and the reply finds its way back. Events go to all.
// Only the user who runs the machine, and root, are listened to; even so nothing a client does may
// use more than bounded memory: a line too long, too many requests at once or answers that it does
// not read end its connection, and what all of them have asked together is bounded too: more is
// answered with an error. On the calling thread's EventLoop.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/control_protocol.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "io/event_loop.h"

namespace strata::cli {

class ControlServer {
  public:
    /// Hands a request on; reply() is called with its number, later: never inside.
    using Forward =
        std::function<void(std::uint64_t id, api::Json body, std::vector<UniqueFd> fds)>;
    /// Listens at `path`. AlreadyExists: another machine does.
    static Result<std::unique_ptr<ControlServer>> create(io::EventLoop& loop, std::string path,
                                                         std::string machine, Forward forward);
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

    /// `body` is {"result":…} or {"error":…}.
    void reply(std::uint64_t id, const api::Json& body);
    void tell(const api::Json& event);

  private:
    struct Client {
        UniqueFd fd;
        io::EventLoop::WatchId watch = 0;
        std::string in, out;
        std::vector<UniqueFd> fds;  ///< came with the line that is not complete yet
        std::size_t asked = 0;      ///< requests without a reply
        bool writing = false;       ///< the watch waits for room
    };
    struct Asked {
        std::uint64_t client = 0;
        api::Json id;
    };
    ControlServer(io::EventLoop& loop, std::string path, std::string machine, Forward forward)
        : loop_(loop),
          path_(std::move(path)),
          machine_(std::move(machine)),
          forward_(std::move(forward)) {}
    Result<> listen();
    void on_connection();
    void on_client(std::uint64_t number, std::uint32_t events);
    /// False: the client is gone.
    bool receive(Client& client, std::uint64_t number);
    bool take_lines(Client& client, std::uint64_t number, std::vector<UniqueFd> fds);
    bool take_line(Client& client, std::uint64_t number, std::string_view line,
                   std::vector<UniqueFd> fds);
    bool say(Client& client, const api::Json& line);
    bool flush(Client& client);
    void drop(std::uint64_t number);

    io::EventLoop& loop_;
    const std::string path_, machine_;
    const Forward forward_;
    UniqueFd listener_;
    std::uint64_t inode_ = 0;  ///< of our socket: not another's is removed
    io::EventLoop::WatchId watch_ = 0;
    std::map<std::uint64_t, Client> clients_;
    std::map<std::uint64_t, Asked> asked_;
    std::uint64_t next_client_ = 1, next_request_ = 1;
};

}  // namespace strata::cli
