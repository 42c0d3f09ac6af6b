// VmmLink: packets and lines.
#include "cli/run/vmm_link.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

namespace strata::cli {

namespace {

constexpr int kControlFd = 3;  // the VMM's number of its socket
constexpr std::chrono::milliseconds kBusyPause{50};

std::vector<int> places_of(const std::vector<UniqueFd>& fds) {
    std::vector<int> places;
    places.reserve(fds.size());
    for (const UniqueFd& fd : fds) {
        places.push_back(fd.get());
    }
    return places;
}

}  // namespace

Result<std::unique_ptr<VmmLink>> VmmLink::spawn(io::EventLoop& loop, Hooks hooks) {
    std::unique_ptr<VmmLink> link(new VmmLink(loop, std::move(hooks)));
    const std::string program = STRATA_TRY(vmm_program());
    auto sockets = STRATA_TRY(io::PacketSocket::pair());
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
        return Error::from_errno("pipe");
    }
    link->words_.reset(ends[0]);
    const UniqueFd words(ends[1]);
    host::SpawnOptions options;
    options.program = program;
    options.arguments = {"--control-fd", std::to_string(kControlFd)};
    options.files = {{sockets.second.fd(), kControlFd}, {words.get(), STDERR_FILENO}};
    options.inherit_standard_files = false;
    options.new_session = true;
    options.die_with_parent = false;  // it ends in order when its control socket closes
    link->process_ = STRATA_TRY(host::ChildProcess::spawn(options));
    link->control_ = std::move(sockets.first);
    return link;
}

VmmLink::~VmmLink() {
    if (control_watch_) {
        loop_.remove(*control_watch_);
    }
    if (words_watch_) {
        loop_.remove(*words_watch_);
    }
}

Result<> VmmLink::send_start(const api::MachineConfig& config, std::vector<UniqueFd>& fds) {
    api::VmmRequest start;
    start.operation = api::VmmOperation::Start;
    start.config = config;
    STRATA_TRY_VOID(control_->send(api::dump_json(api::to_json(start)), places_of(fds)));
    fds.clear();  // ours would keep the VMM's end of the serial socket open
    return ok();
}

Result<> VmmLink::watch() {
    control_watch_ =
        STRATA_TRY(loop_.watch(control_->fd(), EPOLLIN, [this](std::uint32_t) { on_control(); }));
    words_watch_ =
        STRATA_TRY(loop_.watch(words_.get(), EPOLLIN, [this](std::uint32_t) { on_words(); }));
    return ok();
}

Result<> VmmLink::try_send(const api::VmmRequest& request, const std::vector<UniqueFd>& fds) {
    if (!control_watch_) {
        return Error{ErrorKind::WrongState, "the machine does not run"};
    }
    return control_->try_send(api::dump_json(api::to_json(request)), places_of(fds));
}

void VmmLink::hand_over(std::string text) {
    const Result<> sent = control_->try_send(text);
    if (!sent.ok() && sent.error().system_errno() == EAGAIN) {
        loop_.at(io::EventLoop::Clock::now() + kBusyPause,
                 [this, text = std::move(text)]() mutable { hand_over(std::move(text)); });
    }
}

void VmmLink::on_control() {
    auto packet = control_->receive();
    if (!packet || !packet->has_value()) {
        loop_.remove(*control_watch_);  // its end follows
        control_watch_.reset();
        return;
    }
    auto json = api::parse_json((**packet).text);
    auto event = json ? api::vmm_event_from_json(*json) : Result<api::VmmEvent>(json.error());
    if (event) {
        hooks_.on_event(*event);
    } else {
        hooks_.on_nonsense(event.error());
    }
}

void VmmLink::drain(const std::function<bool()>& enough) {
    while (control_watch_ && !enough()) {
        on_control();
    }
}

void VmmLink::on_words() {
    std::array<char, 4096> bytes{};
    const ssize_t got = read(words_.get(), bytes.data(), bytes.size());
    if (got <= 0) {
        loop_.remove(*words_watch_);
        words_watch_.reset();
        hooks_.on_words_end();
        return;
    }
    line_.append(bytes.data(), static_cast<std::size_t>(got));
    std::size_t end = 0;
    while ((end = line_.find('\n')) != std::string::npos) {
        hooks_.on_line(std::string_view(line_).substr(0, end));
        line_.erase(0, end + 1);
    }
}

Result<std::optional<host::ExitState>> VmmLink::poll_end() {
    return process_->wait_for(std::chrono::milliseconds(0));
}

Result<> VmmLink::kill() {
    return process_->signal(SIGKILL);
}

Result<std::string> vmm_program() {
    const std::string own = STRATA_TRY(host::own_program());
    std::string program = own.substr(0, own.rfind('/')) + "/strata-vmm";
    if (access(program.c_str(), X_OK) != 0) {
        return Error::from_errno(fmt::format("the VMM program '{}'", program));
    }
    return program;
}

}  // namespace strata::cli
