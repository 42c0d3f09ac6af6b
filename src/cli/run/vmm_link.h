// VmmLink: the VMM process as `strata run` holds it: its start, the control socket, what it writes
// to standard error, its end.
//
// Events, lines and the end of both streams go to the owner's hooks, on the EventLoop's thread. The
// process is in a session of its own and ends in order when the link goes away.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/vmm_protocol.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "host/process.h"
#include "io/event_loop.h"
#include "io/packet_socket.h"

namespace strata::cli {

class VmmLink {
  public:
    struct Hooks {
        std::function<void(const api::VmmEvent&)> on_event;
        /// It sent what is no event.
        std::function<void(const Error&)> on_nonsense;
        /// A line, without its end, that it wrote to standard error.
        std::function<void(std::string_view)> on_line;
        /// Nobody can write to its standard error any more.
        std::function<void()> on_words_end;
    };

    /// Starts the program. Nothing is read before watch().
    static Result<std::unique_ptr<VmmLink>> spawn(io::EventLoop& loop, Hooks hooks);
    VmmLink(const VmmLink&) = delete;
    VmmLink& operator=(const VmmLink&) = delete;
    ~VmmLink();

    /// The `start` request. The descriptors are the VMM's afterwards, closed here.
    Result<> send_start(const api::MachineConfig& config, std::vector<UniqueFd>& fds);
    Result<> watch();
    /// Never waits: WrongState if the queue is full or the VMM has closed its end.
    Result<> try_send(const api::VmmRequest& request, const std::vector<UniqueFd>& fds);
    /// Never waits, and tries again while the queue is full: the VMM may wait for us to take what
    /// it has said. If it cannot be told, it has ended or will, and its end is noticed.
    void hand_over(const api::VmmRequest& request) { hand_over(api::dump_json(to_json(request))); }
    /// Takes events that are there or still come, until its end of the socket closes or `enough`.
    void drain(const std::function<bool()>& enough);

    /// How it ended, once it has.
    Result<std::optional<host::ExitState>> poll_end();
    [[nodiscard]] bool speaks() const { return words_watch_.has_value(); }
    Result<> kill();

  private:
    VmmLink(io::EventLoop& loop, Hooks hooks) : loop_(loop), hooks_(std::move(hooks)) {}
    void hand_over(std::string text);
    void on_control();
    void on_words();

    io::EventLoop& loop_;
    Hooks hooks_;
    std::optional<io::PacketSocket> control_;
    std::optional<host::ChildProcess> process_;
    UniqueFd words_;
    std::string line_;
    std::optional<io::EventLoop::WatchId> control_watch_, words_watch_;
};

/// The program strata-vmm, which lies beside this one. NotFound if it does not.
Result<std::string> vmm_program();

}  // namespace strata::cli
