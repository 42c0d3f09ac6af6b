// SerialLink: connects the guest's serial port or console to where the user wants it: this
// terminal, a pty, a file, a unix socket.
//
// The VMM holds one end of a stream socket, the link the other. Lives on the EventLoop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "api/option_text.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/run/pump.h"
#include "io/event_loop.h"

namespace strata::cli {

class SerialLink {
  public:
    struct Hooks {
        std::function<void()> on_escape;  ///< Ctrl-] was typed at a terminal
        std::function<void()>
            on_output_lost;  ///< standard output was closed, or the file cannot be written
        std::function<void()>
            on_guest_closed;  ///< the VMM closed its end, and all it said was passed on
    };
    /// Makes the socket pair and the target, which is one (not SerialKind::None). `guest_end`
    /// receives the VMM's end.
    static Result<std::unique_ptr<SerialLink>> create(io::EventLoop& loop,
                                                      const api::SerialTarget& target, Hooks hooks,
                                                      UniqueFd& guest_end);
    ~SerialLink();
    SerialLink(const SerialLink&) = delete;
    SerialLink& operator=(const SerialLink&) = delete;

    /// What to tell the user, e.g. "serial port on /dev/pts/5"; empty for stdio.
    [[nodiscard]] const std::string& announcement() const { return announcement_; }

  private:
    SerialLink(io::EventLoop& loop, std::string option, Hooks hooks, UniqueFd link);
    Result<> open_stdio();
    Result<> open_pty();
    Result<> open_file(const std::string& path);
    Result<> open_unix(const std::string& path);
    Result<> listen_at(const std::string& path);
    void accept_client();
    Result<> connect_input(UniqueFd source, std::function<void(std::string&)> filter,
                           std::function<void()> closed);

    [[nodiscard]] std::string_view what() const {
        return option_ == "--serial" ? "serial port" : "console";
    }

    io::EventLoop& loop_;
    const std::string option_;  ///< for messages
    Hooks hooks_;
    UniqueFd link_;
    std::unique_ptr<Pump> output_, input_;
    UniqueFd kept_;       ///< the pty's other side, or the listening socket
    std::string unlink_;  ///< the socket's path
    io::EventLoop::WatchId listen_watch_ = 0;
    bool listening_ = false;
    std::string announcement_;
};

}  // namespace strata::cli
