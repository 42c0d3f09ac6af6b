// RawTerminal: termios, and the handlers of last resort.
#include "cli/run/terminal.h"

#include <array>
#include <atomic>
#include <csignal>

#include <unistd.h>

namespace strata::cli {
namespace {

constexpr std::array kFatalSignals = {SIGSEGV, SIGBUS,  SIGILL,  SIGFPE,
                                      SIGABRT, SIGQUIT, SIGXCPU, SIGSYS};

// What the handler needs; written before g_fd is (release), read after it (acquire).
termios g_saved;            // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
std::atomic<int> g_fd{-1};  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

void restore_and_die(int number) {
    const int fd = g_fd.load(std::memory_order_acquire);
    if (fd >= 0) {
        (void)tcsetattr(fd, TCSANOW, &g_saved);  // async-signal-safe; nothing else can be done
    }
    (void)raise(number);  // SA_RESETHAND: the default action now
}

void make_raw(int fd, const termios& saved) {
    termios raw = saved;
    cfmakeraw(&raw);
    (void)tcsetattr(fd, TCSANOW, &raw);  // a terminal that is gone is noticed when reading it
}

}  // namespace

std::unique_ptr<RawTerminal> RawTerminal::enter(int fd) {
    termios saved{};
    // In the background tcsetattr would stop us (SIGTTOU).
    if (isatty(fd) == 0 || tcgetpgrp(fd) != getpgrp() || tcgetattr(fd, &saved) != 0) {
        return nullptr;
    }
    g_saved = saved;
    g_fd.store(fd, std::memory_order_release);
    struct sigaction action {};
    action.sa_handler = restore_and_die;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (const int number : kFatalSignals) {
        (void)sigaction(number, &action, nullptr);  // cannot fail for these numbers
    }
    make_raw(fd, saved);
    return std::unique_ptr<RawTerminal>(new RawTerminal(fd, saved));
}

RawTerminal::~RawTerminal() {
    (void)tcsetattr(fd_, TCSADRAIN, &saved_);  // a terminal that is gone needs no restoring
    g_fd.store(-1, std::memory_order_release);
}

void RawTerminal::reenter() const {
    if (tcgetpgrp(fd_) == getpgrp()) {
        make_raw(fd_, saved_);
    }
}

}  // namespace strata::cli
