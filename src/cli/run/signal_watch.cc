// SignalWatch: signalfd.
#include "cli/run/signal_watch.h"

#include <sys/signalfd.h>
#include <unistd.h>

namespace strata::cli {

Result<std::unique_ptr<SignalWatch>> SignalWatch::create() {
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

SignalWatch::~SignalWatch() {
    sigprocmask(SIG_SETMASK, &before_, nullptr);
}

int SignalWatch::take() const {
    signalfd_siginfo info{};
    return read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo)
                                                              : 0;
}

}  // namespace strata::cli
