// ProgressSignal: a blocked signal, taken without waiting.
#include "block/jobs/progress_signal.h"

#include <csignal>
#include <ctime>
#include <utility>

#include <pthread.h>

#include "base/check.h"

namespace strata::block {
namespace {

sigset_t progress_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    return signals;
}

ProgressTeller& teller() {
    static ProgressTeller tell;
    return tell;
}

}  // namespace

void hold_progress_signal() {
    const sigset_t signals = progress_signals();
    STRATA_CHECK(::pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0, "cannot block SIGUSR1");
}

bool take_progress_signal() {
    const sigset_t signals = progress_signals();
    const timespec at_once{};
    return ::sigtimedwait(&signals, nullptr, &at_once) == SIGUSR1;
}

void answer_progress_signal(ProgressTeller tell) {
    teller() = std::move(tell);
}

void look_for_progress_signal(std::uint64_t done, std::uint64_t total) {
    if (teller() && take_progress_signal()) {
        teller()(done, total);
    }
}

}  // namespace strata::block
