// vmm_main: the two modes.
#include "vmm/vmm_main.h"

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "vmm/engine_choice.h"
#include "vmm/vmm.h"

namespace strata::vmm {
namespace {

constexpr unsigned kEndGrace = 10;  // seconds

// Signalled by the handler below. Written once, before the handler is installed.
int g_stop_fd = -1;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

// Asks for an orderly end, and sees to it that the end comes: SIGALRM kills.
void on_terminate(int /*number*/) {
    const std::uint64_t one = 1;
    (void)!write(g_stop_fd, &one, sizeof one);  // async-signal-safe; if it fails the alarm remains
    (void)alarm(kEndGrace);
}

void install_terminate(int stop_fd) {
    g_stop_fd = stop_fd;
    struct sigaction action {};
    action.sa_handler = on_terminate;
    action.sa_flags = SA_RESTART;
    (void)sigaction(SIGTERM, &action, nullptr);  // cannot fail for these numbers
    (void)sigaction(SIGINT, &action, nullptr);
}

int serve(int control_fd) {
    // The owner's end must take us along even if it is killed: its socket's end is noticed first,
    // this is for when that is not enough.
    const pid_t parent = getppid();
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);  // cannot fail for a valid signal
    if (getppid() != parent) {
        return exit_status(ErrorKind::Unreachable);
    }
    if (fcntl(control_fd, F_SETFD, FD_CLOEXEC) != 0) {
        log::error("--control-fd {} is not open: this program is started by strata run",
                   control_fd);
        return exit_status(ErrorKind::InvalidArgument);
    }
    auto vmm = Vmm::create(io::PacketSocket(UniqueFd(control_fd)));
    if (!vmm) {
        log::error("{}", vmm.error().text());
        return exit_status(vmm.error().kind());
    }
    install_terminate((*vmm)->stop_fd());
    return (*vmm)->run();
}

int probe() {
    const std::string text = api::dump_json(probe_host()) + "\n";
    return write(STDOUT_FILENO, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0
                                                                                               : 1;
}

}  // namespace

int vmm_main(std::span<const std::string_view> words) {
    if (const char* level = std::getenv("STRATA_LOG");
        level != nullptr) {           // NOLINT(concurrency-mt-unsafe): before any thread
        (void)log::set_level(level);  // strata has checked it
    }
    if (words.size() == 1 && words[0] == "--probe") {
        return probe();
    }
    if (words.size() == 2 && words[0] == "--control-fd") {
        if (auto fd = parse_integer(words[1], 3, 1024)) {
            return serve(static_cast<int>(*fd));
        }
    }
    log::error("usage: strata-vmm --probe (use 'strata run' to run a machine)");
    return exit_status(ErrorKind::InvalidArgument);
}

}  // namespace strata::vmm
