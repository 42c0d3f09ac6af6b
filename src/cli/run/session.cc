// Session: the event loop of `strata run`.
#include "cli/run/session.h"

#include <array>
#include <climits>
#include <csignal>
#include <memory>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/vmm_protocol.h"
#include "block/nbd/connector.h"
#include "cli/control/control_server.h"
#include "cli/output.h"
#include "cli/run/serial_link.h"
#include "cli/run/terminal.h"
#include "host/process.h"
#include "io/event_loop.h"
#include "io/packet_socket.h"

namespace strata::cli {
namespace {

using Clock = io::EventLoop::Clock;

constexpr int kControlFd = 3;  // the VMM's number of its socket
constexpr std::chrono::seconds kKillGrace{10};
constexpr std::chrono::seconds kDrainGrace{2};
constexpr std::chrono::milliseconds kBusyPause{50};

/// Signals as readable descriptor; the mask of before is restored in the destructor.
class SignalWatch {
  public:
    static Result<std::unique_ptr<SignalWatch>> create() {
        sigset_t set;
        sigemptyset(&set);
        for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGCONT, SIGWINCH}) {
            sigaddset(&set, number);
        }
        std::unique_ptr<SignalWatch> watch(new SignalWatch);
        sigprocmask(SIG_BLOCK, &set, &watch->before_);
        watch->fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
        if (!watch->fd_.valid()) {
            return Error::from_errno("signalfd");
        }
        return watch;
    }
    SignalWatch(const SignalWatch&) = delete;
    SignalWatch& operator=(const SignalWatch&) = delete;
    ~SignalWatch() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
    [[nodiscard]] int fd() const { return fd_.get(); }
    /// The next signal's number, or 0.
    [[nodiscard]] int take() const {
        signalfd_siginfo info{};
        return read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo)
                                                                  : 0;
    }

  private:
    SignalWatch() = default;
    UniqueFd fd_;
    sigset_t before_{};
};

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
    Result<> watch_all();
    /// Makes a link to `target`, and gives the VMM's end a place among the descriptors; kNoFile for
    /// no target.
    Result<std::int64_t> open_link(const api::SerialTarget& target);
    Result<> start_vmm();
    /// For each disk on an NBD server, who connects to it.
    Result<> make_openers();
    /// If a request names an export, its descriptor is a channel to who connects to that.
    Result<> open_export_of(api::Json& body, std::vector<UniqueFd>& fds);
    Result<UniqueFd> add_opener(block::OptionList location);
    Result<> open_control();
    void forward(std::uint64_t id, api::Json body, std::vector<UniqueFd> fds);
    Result<> send_start();
    void send_console_size();
    void lost_output(const api::SerialTarget& target);
    void on_control();
    void on_signal();
    void on_vmm_words();
    void on_event(const api::VmmEvent& event);
    void announce_start(const api::VmmEvent& event);
    void ask(std::optional<Error> why);
    void on_power_button(bool heard);
    void on_waiting(const api::VmmEvent& event);
    void stop(std::optional<Error> why);
    void kill_vmm();
    void tell(api::VmmOperation operation);
    void hand_over(std::string text);
    void finish_if_over();
    void say(std::string_view text, bool always = false);

    SessionRequest request_;
    io::EventLoop& loop_;
    std::unique_ptr<SignalWatch> signals_;
    std::vector<std::unique_ptr<SerialLink>> links_;
    std::size_t links_open_ = 0;  ///< the VMM has not closed them yet
    std::unique_ptr<RawTerminal> terminal_;
    std::optional<io::PacketSocket> control_;
    std::unique_ptr<ControlServer> server_;
    std::vector<std::unique_ptr<block::nbd::ConnectionOpener>> openers_;
    std::optional<host::ChildProcess> vmm_;
    UniqueFd vmm_words_;
    std::string vmm_line_;
    std::vector<io::EventLoop::WatchId> watches_;
    std::optional<io::EventLoop::WatchId> control_watch_, words_watch_;

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
    for (const auto id : watches_) {
        loop_.remove(id);
    }
    if (control_watch_) {
        loop_.remove(*control_watch_);
    }
    if (words_watch_) {
        loop_.remove(*words_watch_);
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
    STRATA_TRY_VOID(make_openers());
    STRATA_TRY_VOID(start_vmm());
    for (const auto& opener : openers_) {  // threads, so after the fork
        STRATA_TRY_VOID(opener->start());
    }
    STRATA_TRY_VOID(watch_all());
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

Result<> Session::make_openers() {
    for (api::DiskConfig& disk : request_.config.disks) {
        if (disk.nbd.empty()) {
            continue;
        }
        request_.fds.push_back(STRATA_TRY(add_opener(disk.nbd)));
        disk.file.fd = static_cast<std::int64_t>(request_.fds.size()) - 1;
    }
    return ok();
}

Result<UniqueFd> Session::add_opener(block::OptionList location) {
    block::nbd::Location where = STRATA_TRY(block::nbd::take_location(location));
    auto [opener, channel] =
        STRATA_TRY(block::nbd::ConnectionOpener::create(std::move(where.address)));
    openers_.push_back(std::move(opener));
    return std::move(channel);
}

Result<> Session::open_export_of(api::Json& body, std::vector<UniqueFd>& fds) {
    const auto arguments = body.find("arguments");
    if (arguments == body.end() || !arguments->is_object() || !arguments->contains("nbd")) {
        return ok();
    }
    block::OptionList location;
    for (const auto& [name, value] : (*arguments)["nbd"].items()) {
        if (!value.is_string()) {
            return Error{ErrorKind::InvalidArgument, "nbd: must be an object of texts"};
        }
        if (name.starts_with("tls")) {
            return Error{ErrorKind::NotSupported,
                         "an export with TLS can be a disk from the machine's start, not a copy's "
                         "target: its process has no credentials"};
        }
        location.emplace_back(name, value.get<std::string>());
    }
    std::erase_if(openers_, [](const auto& opener) { return opener->over(); });
    fds.clear();
    fds.push_back(STRATA_TRY(add_opener(std::move(location))));
    (*arguments)["fd"] = 0;
    Result<> started = openers_.back()->start();
    if (!started.ok()) {
        openers_.pop_back();
    }
    return started;
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
    if (auto opened = open_export_of(request.body, fds); !opened.ok()) {
        loop_.post([this, id, error = opened.error()] {
            server_->reply(id, {{"error", api::error_json(error)}});
        });
        return;
    }
    std::vector<int> places;
    for (const UniqueFd& fd : fds) {
        places.push_back(fd.get());
    }
    const Result<> sent = started_ && control_watch_
                              ? control_->try_send(api::dump_json(api::to_json(request)), places)
                              : Result<>(Error{ErrorKind::WrongState, "the machine does not run"});
    if (!sent.ok()) {
        loop_.post([this, id, error = sent.error()] {
            server_->reply(id, {{"error", api::error_json(error)}});
        });
    }
}

Result<> Session::start_vmm() {
    const std::string program = STRATA_TRY(vmm_program());
    auto sockets = STRATA_TRY(io::PacketSocket::pair());
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
        return Error::from_errno("pipe");
    }
    vmm_words_.reset(ends[0]);
    const UniqueFd words(ends[1]);
    host::SpawnOptions options;
    options.program = program;
    options.arguments = {"--control-fd", std::to_string(kControlFd)};
    options.files = {{sockets.second.fd(), kControlFd}, {words.get(), STDERR_FILENO}};
    options.inherit_standard_files = false;
    options.new_session = true;
    options.die_with_parent = false;  // it ends in order when its control socket closes
    vmm_ = STRATA_TRY(host::ChildProcess::spawn(options));
    control_ = std::move(sockets.first);
    return send_start();
}

Result<> Session::send_start() {
    std::vector<int> fds;
    for (const UniqueFd& fd : request_.fds) {
        fds.push_back(fd.get());
    }
    api::VmmRequest start;
    start.operation = api::VmmOperation::Start;
    start.config = request_.config;
    STRATA_TRY_VOID(control_->send(api::dump_json(api::to_json(start)), fds));
    request_.fds
        .clear();  // the VMM has its own now; ours would keep its end of the serial socket open
    return ok();
}

Result<> Session::watch_all() {
    watches_.push_back(
        STRATA_TRY(loop_.watch(signals_->fd(), EPOLLIN, [this](std::uint32_t) { on_signal(); })));
    control_watch_ =
        STRATA_TRY(loop_.watch(control_->fd(), EPOLLIN, [this](std::uint32_t) { on_control(); }));
    words_watch_ = STRATA_TRY(
        loop_.watch(vmm_words_.get(), EPOLLIN, [this](std::uint32_t) { on_vmm_words(); }));
    return ok();
}

void Session::send_console_size() {
    const auto size = terminal_size();
    if (!size || !control_ || request_.console.kind != api::SerialKind::Stdio) {
        return;
    }
    api::VmmRequest request;
    request.operation = api::VmmOperation::ConsoleSize;
    request.columns = size->ws_col;
    request.rows = size->ws_row;
    // A VMM that has ended needs no size.
    hand_over(api::dump_json(api::to_json(request)));
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

void Session::on_control() {
    auto packet = control_->receive();
    if (!packet || !packet->has_value()) {
        loop_.remove(*control_watch_);  // its end follows
        control_watch_.reset();
        return;
    }
    auto json = api::parse_json((**packet).text);
    auto event = json ? api::vmm_event_from_json(*json) : Result<api::VmmEvent>(json.error());
    if (!event) {
        stop(Error{ErrorKind::Failed,
                   fmt::format("the VMM process sent nonsense: {}", event.error().text())});
        return;
    }
    on_event(*event);
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
        const auto ended = vmm_ && !vmm_end_ ? vmm_->wait_for(std::chrono::milliseconds(0))
                                             : std::optional<host::ExitState>();
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

void Session::on_vmm_words() {
    std::array<char, 4096> bytes{};
    const ssize_t got = read(vmm_words_.get(), bytes.data(), bytes.size());
    if (got <= 0) {
        loop_.remove(*words_watch_);
        words_watch_.reset();
        finish_if_over();
        return;
    }
    vmm_line_.append(bytes.data(), static_cast<std::size_t>(got));
    std::size_t end = 0;
    while ((end = vmm_line_.find('\n')) != std::string::npos) {
        const std::string line = vmm_line_.substr(0, end) + (terminal_ ? "\r\n" : "\n");
        (void)!write(STDERR_FILENO, line.data(),
                     line.size());  // a closed standard error has no readers to miss it
        vmm_line_.erase(0, end + 1);
    }
}

void Session::tell(api::VmmOperation operation) {
    api::VmmRequest request;
    request.operation = operation;
    // If it cannot be told, it has ended or will: its end is noticed by SIGCHLD, or by the kill
    // after stop().
    hand_over(api::dump_json(api::to_json(request)));
}

// Never waits: the VMM may wait for us to take what it has said.
void Session::hand_over(std::string text) {
    const Result<> sent = control_->try_send(text);
    if (!sent.ok() && sent.error().system_errno() == EAGAIN) {
        loop_.at(Clock::now() + kBusyPause,
                 [this, text = std::move(text)]() mutable { hand_over(std::move(text)); });
    }
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
    loop_.at(Clock::now() + kKillGrace, [this] { kill_vmm(); });
}

void Session::kill_vmm() {
    if (!vmm_) {
        return;
    }
    if (const auto sent = vmm_->signal(SIGKILL); !sent) {
        say(sent.error().text(), true);
    }
}

void Session::finish_if_over() {
    if (vmm_end_ && links_open_ == 0 && !words_watch_) {
        loop_.stop();
    }
}

Result<int> Session::outcome() {
    // Events that came in the same moment as the end.
    while (control_watch_ && !exited_) {
        on_control();
    }
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

Result<std::string> vmm_program() {
    const std::string own = STRATA_TRY(host::own_program());
    std::string program = own.substr(0, own.rfind('/')) + "/strata-vmm";
    if (access(program.c_str(), X_OK) != 0) {
        return Error::from_errno(fmt::format("the VMM program '{}'", program));
    }
    return program;
}

Result<int> run_session(SessionRequest request) {
    auto loop = STRATA_TRY(io::EventLoop::create());
    Session session(std::move(request), *loop);
    STRATA_TRY_VOID(session.start());
    loop->run();
    return session.outcome();
}

}  // namespace strata::cli
