// Session: the event loop of `strata run`.
#include "cli/run/session.h"

#include <csignal>
#include <memory>

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "api/vmm_protocol.h"
#include "cli/control/control_server.h"
#include "cli/output.h"
#include "cli/run/disk_openers.h"
#include "cli/run/serial_link.h"
#include "cli/run/signal_watch.h"
#include "cli/run/terminal.h"
#include "cli/run/vmm_link.h"
#include "host/process.h"
#include "io/event_loop.h"

namespace strata::cli {
namespace {

using Clock = io::EventLoop::Clock;

constexpr std::chrono::seconds kKillGrace{10};
constexpr std::chrono::seconds kStartGrace{1};  // before the guest runs there is nothing to save
constexpr std::chrono::seconds kDrainGrace{2};

std::string_view sentence(api::ExitCause cause) {
    switch (cause) {
        case api::ExitCause::PowerOff:
            return "the guest powered off";
        case api::ExitCause::Reset:
            return "the guest reset the machine (--no-reboot ends the run here)";
        case api::ExitCause::Panic:
            return "the guest panicked";
        case api::ExitCause::TripleFault:
            return "the guest triple-faulted";
        case api::ExitCause::DebugExit:
            return "the guest wrote to the debug-exit port";
        case api::ExitCause::Stopped:
            return "the machine was stopped";
        case api::ExitCause::Error:
            return "the machine failed";
    }
    return "";
}

/// The size of the terminal on standard output, if it is one and knows.
std::optional<winsize> terminal_size() {
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
        return std::nullopt;
    }
    return size;
}

class Session {
  public:
    explicit Session(SessionRequest request, io::EventLoop& loop)
        : request_(std::move(request)), loop_(loop) {}
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session();

    Result<> start();
    /// After the loop ended.
    Result<int> outcome();

  private:
    /// Makes a link to `target`, and gives the VMM's end a place among the descriptors; kNoFile for
    /// no target.
    Result<std::int64_t> open_link(const api::SerialTarget& target);
    Result<> start_vmm();
    Result<> open_control();
    void forward(std::uint64_t id, api::Json body, std::vector<UniqueFd> fds);
    void send_console_size();
    void lost_output(const api::SerialTarget& target);
    void on_signal();
    void on_event(const api::VmmEvent& event);
    void announce_start(const api::VmmEvent& event);
    void ask(std::optional<Error> why);
    void on_power_button(bool heard);
    void on_waiting(const api::VmmEvent& event);
    void stop(std::optional<Error> why);
    void kill_vmm();
    void tell(api::VmmOperation operation);
    void pass_on(std::string_view line) const;
    void finish_if_over();
    void say(std::string_view text, bool always = false);

    SessionRequest request_;
    io::EventLoop& loop_;
    std::unique_ptr<SignalWatch> signals_;
    std::vector<std::unique_ptr<SerialLink>> links_;
    std::size_t links_open_ = 0;  ///< the VMM has not closed them yet
    std::unique_ptr<RawTerminal> terminal_;
    std::unique_ptr<ControlServer> server_;
    DiskOpeners openers_;
    std::unique_ptr<VmmLink> vmm_;
    std::optional<io::EventLoop::WatchId> signal_watch_;

    bool started_ = false;
    bool waiting_ = false;             ///< for the host: the VMM tries again from time to time
    bool asked_ = false;               ///< the guest's power button was pressed
    std::optional<Error> ask_reason_;  ///< as stop_reason_, of the asking
    bool stopping_ = false;
    bool left_ = false;                 ///< Ctrl-]
    std::optional<Error> stop_reason_;  ///< why we stopped it; none: Ctrl-]
    std::optional<api::VmmEvent> exited_;
    std::optional<host::ExitState> vmm_end_;
};

Session::~Session() {
    if (signal_watch_) {
        loop_.remove(*signal_watch_);
    }
}

Result<> Session::start() {
    signals_ = STRATA_TRY(SignalWatch::create());
    request_.config.serial_fd = STRATA_TRY(open_link(request_.serial));
    request_.config.console.fd = STRATA_TRY(open_link(request_.console));
    if (const auto size = terminal_size();
        size && request_.console.kind == api::SerialKind::Stdio) {
        request_.config.console.columns = size->ws_col;
        request_.config.console.rows = size->ws_row;
    }
    STRATA_TRY_VOID(open_control());
    STRATA_TRY_VOID(openers_.add(request_.config.disks, request_.folders, request_.fds));
    STRATA_TRY_VOID(start_vmm());
    STRATA_TRY_VOID(openers_.start());  // threads, so after the fork
    signal_watch_ =
        STRATA_TRY(loop_.watch(signals_->fd(), EPOLLIN, [this](std::uint32_t) { on_signal(); }));
    STRATA_TRY_VOID(vmm_->watch());
    if (request_.serial.kind == api::SerialKind::Stdio ||
        request_.console.kind == api::SerialKind::Stdio) {
        terminal_ = RawTerminal::enter(STDIN_FILENO);
    }
    for (const auto& link : links_) {
        if (!link->announcement().empty()) {
            say(link->announcement());
        }
    }
    if (request_.time_limit) {
        loop_.at(Clock::now() + *request_.time_limit, [this] {
            stop(Error{ErrorKind::TimedOut,
                       fmt::format("the machine was stopped after {} s (--timeout)",
                                   request_.time_limit->count())});
        });
    }
    return ok();
}

Result<std::int64_t> Session::open_link(const api::SerialTarget& target) {
    if (target.kind == api::SerialKind::None) {
        return api::kNoFile;
    }
    SerialLink::Hooks hooks;
    hooks.on_escape = [this] {
        left_ = true;
        ask({});
    };
    hooks.on_output_lost = [this, target] { lost_output(target); };
    hooks.on_guest_closed = [this] {
        --links_open_;
        finish_if_over();
    };
    UniqueFd guest_end;
    links_.push_back(STRATA_TRY(SerialLink::create(loop_, target, std::move(hooks), guest_end)));
    ++links_open_;
    request_.fds.push_back(std::move(guest_end));
    return static_cast<std::int64_t>(request_.fds.size()) - 1;
}

void Session::lost_output(const api::SerialTarget& target) {
    if (target.kind == api::SerialKind::File) {
        // A log that is full is no reason to end a machine.
        say(fmt::format(
                "{} file '{}' cannot be written: what the guest says from now on is dropped",
                target.option, target.path),
            true);
        return;
    }
    stop(Error{ErrorKind::Failed, "standard output was closed: the machine was stopped"});
}

Result<> Session::open_control() {
    if (request_.control.empty()) {
        return ok();
    }
    server_ = STRATA_TRY(
        ControlServer::create(loop_, request_.control, request_.config.name,
                              [this](std::uint64_t id, api::Json body, std::vector<UniqueFd> fds) {
                                  forward(id, std::move(body), std::move(fds));
                              }));
    return ok();
}

void Session::forward(std::uint64_t id, api::Json body, std::vector<UniqueFd> fds) {
    api::VmmRequest request;
    request.operation = api::VmmOperation::Control;
    request.id = id;
    request.body = std::move(body);
    if (auto opened = openers_.open_export_of(request.body, fds); !opened.ok()) {
        loop_.post([this, id, error = opened.error()] {
            server_->reply(id, {{"error", api::error_json(error)}});
        });
        return;
    }
    const Result<> sent = started_
                              ? vmm_->try_send(request, fds)
                              : Result<>(Error{ErrorKind::WrongState, "the machine does not run"});
    if (!sent.ok()) {
        loop_.post([this, id, error = sent.error()] {
            server_->reply(id, {{"error", api::error_json(error)}});
        });
    }
}

Result<> Session::start_vmm() {
    VmmLink::Hooks hooks;
    hooks.on_event = [this](const api::VmmEvent& event) { on_event(event); };
    hooks.on_nonsense = [this](const Error& why) {
        stop(
            Error{ErrorKind::Failed, fmt::format("the VMM process sent nonsense: {}", why.text())});
    };
    hooks.on_line = [this](std::string_view line) { pass_on(line); };
    hooks.on_words_end = [this] { finish_if_over(); };
    vmm_ = STRATA_TRY(VmmLink::spawn(loop_, std::move(hooks)));
    return vmm_->send_start(request_.config, request_.fds);
}

void Session::send_console_size() {
    const auto size = terminal_size();
    if (!size || request_.console.kind != api::SerialKind::Stdio) {
        return;
    }
    api::VmmRequest request;
    request.operation = api::VmmOperation::ConsoleSize;
    request.columns = size->ws_col;
    request.rows = size->ws_row;
    vmm_->hand_over(request);
}

// A line on standard error that looks right in raw mode too.
void Session::say(std::string_view text, bool always) {
    const std::string line = terminal_ ? fmt::format("{}\r", text) : std::string(text);
    if (always) {
        complain(line);
    } else {
        notice(line);
    }
}

void Session::announce_start(const api::VmmEvent& event) {
    const std::string_view leave = terminal_ ? " Ctrl-] ends it." : "";
    say(fmt::format("'{}' runs on the {} engine: {}.{}", request_.config.name, event.engine,
                    event.reason, leave));
}

void Session::on_event(const api::VmmEvent& event) {
    if (event.kind == api::VmmEvent::Kind::Reply) {
        if (server_ != nullptr) {
            server_->reply(event.id, event.body);
        }
        return;
    }
    if (server_ != nullptr) {
        server_->tell(event.kind == api::VmmEvent::Kind::Notice ? event.body : api::to_json(event));
    }
    if (event.kind == api::VmmEvent::Kind::Notice) {
        return;
    }
    if (request_.as_json) {
        (void)dprintf(STDERR_FILENO, "%s\n",
                      api::dump_json(api::to_json(event)).c_str());  // as every notice
    }
    if (event.kind == api::VmmEvent::Kind::PowerButton) {
        on_power_button(event.heard);
        return;
    }
    if (event.kind == api::VmmEvent::Kind::Waiting || event.kind == api::VmmEvent::Kind::GoingOn) {
        on_waiting(event);
        return;
    }
    if (event.kind == api::VmmEvent::Kind::Started) {
        started_ = true;
        if (!request_.as_json) {
            announce_start(event);
        }
        return;
    }
    if (!exited_) {
        exited_ = event;
        loop_.at(Clock::now() + kKillGrace, [this] { kill_vmm(); });
    }
}

void Session::on_signal() {
    const int number = signals_->take();
    if (number == SIGCONT) {
        if (terminal_) {
            terminal_->reenter();
        }
        if (waiting_) {
            tell(api::VmmOperation::Retry);
        }
    } else if (number == SIGWINCH) {
        send_console_size();
    } else if (number == SIGCHLD) {
        const auto ended =
            vmm_end_ ? Result<std::optional<host::ExitState>>(std::nullopt) : vmm_->poll_end();
        if (ended && *ended) {
            vmm_end_ = **ended;
            // What it said may still be on its way; a grandchild's hold on the sockets must not
            // keep us.
            loop_.at(Clock::now() + kDrainGrace, [this] { loop_.stop(); });
            finish_if_over();
        }
    } else if (number == SIGINT || number == SIGTERM) {
        ask(Error{ErrorKind::Failed,
                  fmt::format("the machine was stopped by SIG{}", sigabbrev_np(number))});
    } else if (number == SIGHUP) {
        stop(Error{ErrorKind::Failed,
                   fmt::format("the machine was stopped by SIG{}", sigabbrev_np(number))});
    }
}

void Session::pass_on(std::string_view line) const {
    const std::string text = fmt::format("{}{}", line, terminal_ ? "\r\n" : "\n");
    (void)!write(STDERR_FILENO, text.data(),
                 text.size());  // a closed standard error has no readers to miss it
}

void Session::tell(api::VmmOperation operation) {
    api::VmmRequest request;
    request.operation = operation;
    vmm_->hand_over(request);
}

// The first time the guest may power off by itself; the second time it is over.
void Session::ask(std::optional<Error> why) {
    if (asked_ || !started_ || request_.stop_grace.count() == 0) {
        stop(std::move(why));
        return;
    }
    asked_ = true;
    ask_reason_ = std::move(why);
    tell(api::VmmOperation::PowerButton);
    loop_.at(Clock::now() + request_.stop_grace, [this] {
        if (!stopping_ && !exited_) {
            say(fmt::format("the guest has not powered off within {} s",
                            request_.stop_grace.count()));
            stop(std::move(ask_reason_));
        }
    });
}

void Session::on_power_button(bool heard) {
    if (!heard) {
        stop(std::move(ask_reason_));
    } else if (!stopping_ && !request_.as_json) {
        say(fmt::format("the guest was asked to power off and has {} s; {} again ends it now",
                        request_.stop_grace.count(), terminal_ ? "Ctrl-]" : "the same"));
    }
}

void Session::on_waiting(const api::VmmEvent& event) {
    waiting_ = event.kind == api::VmmEvent::Kind::Waiting;
    if (request_.as_json) {
        return;
    }
    if (waiting_) {
        say(fmt::format("the machine is paused: {} (nothing is lost: it tries again every few "
                        "seconds, and at once after 'kill -CONT {}')",
                        event.reason, getpid()),
            true);
    } else {
        say("the machine goes on", true);
    }
}

void Session::stop(std::optional<Error> why) {
    if (stopping_ || exited_) {
        return;
    }
    stopping_ = true;
    stop_reason_ = std::move(why);
    tell(api::VmmOperation::Stop);
    openers_.clear();  // a VMM that waits for a disk's server waits no longer
    loop_.at(Clock::now() + (started_ ? kKillGrace : kStartGrace), [this] { kill_vmm(); });
}

void Session::kill_vmm() {
    if (const auto sent = vmm_->kill(); !sent) {
        say(sent.error().text(), true);
    }
}

void Session::finish_if_over() {
    if (vmm_end_ && links_open_ == 0 && !vmm_->speaks()) {
        loop_.stop();
    }
}

Result<int> Session::outcome() {
    // Events that came in the same moment as the end.
    vmm_->drain([this] { return exited_.has_value(); });
    links_.clear();
    terminal_.reset();
    if (stopping_ && left_ && !stop_reason_) {
        notice("left with Ctrl-]: the machine was stopped");
        return 0;
    }
    if (stop_reason_) {
        return std::move(*stop_reason_);
    }
    if (!exited_) {
        return Error{ErrorKind::Failed, fmt::format("the VMM process ended without a word ({})",
                                                    vmm_end_.value_or(host::ExitState{}).text())};
    }
    if (exited_->cause == api::ExitCause::Error) {
        return Error{exited_->error_kind, exited_->error};
    }
    if (!request_.as_json) {
        notice(sentence(exited_->cause));
    }
    return api::exit_status(*exited_);
}

}  // namespace

Result<int> run_session(SessionRequest request) {
    auto loop = STRATA_TRY(io::EventLoop::create());
    Session session(std::move(request), *loop);
    STRATA_TRY_VOID(session.start());
    loop->run();
    return session.outcome();
}

}  // namespace strata::cli
