// EndSignals: a signalfd on a loop.
#include "block/nbd/server/signals.h"

#include <csignal>

#include <sys/signalfd.h>
#include <unistd.h>

namespace strata::block::nbd {

Result<UniqueFd> EndSignals::block() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int each : {SIGTERM, SIGINT, SIGHUP}) {
        sigaddset(&signals, each);
    }
    UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd || ::pthread_sigmask(SIG_BLOCK, &signals, nullptr) != 0) {
        return Error::from_errno("cannot wait for signals");
    }
    return fd;
}

Result<std::unique_ptr<EndSignals>> EndSignals::create(Loop& loop, UniqueFd signals,
                                                       std::function<void()> end) {
    std::unique_ptr<EndSignals> made(new EndSignals(loop, std::move(signals), std::move(end)));
    made->watch_ = STRATA_TRY(Loop::Watch::create(loop, made->signals_.get()));
    loop.spawn(made->watch(), [self = made.get()](const Result<>& /*done*/) {
        self->ended_ = true;
        self->gone_.wake_all();
    });
    return made;
}

Task<> EndSignals::watch() {
    while (!finishing_) {
        signalfd_siginfo info{};
        if (::read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
            end_();
        } else {
            co_await watch_->readable();
        }
    }
    co_return ok();
}

Task<> EndSignals::finish() {
    finishing_ = true;
    watch_->wake();
    while (!ended_) {
        co_await gone_.wait();
    }
    co_return ok();
}

}  // namespace strata::block::nbd
