// RawTerminal: the user's terminal in raw mode, and its way back whatever happens.
//
// Normal ends restore it in the destructor; fatal signals (a crash of ours) restore it in a
// handler. Only SIGKILL cannot.
#pragma once

#include <memory>

#include <termios.h>

namespace strata::cli {

class RawTerminal {
  public:
    /// Raw mode on `fd`; nullptr if it is no terminal or we are not in its foreground. At most one
    /// exists.
    static std::unique_ptr<RawTerminal> enter(int fd);
    ~RawTerminal();
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    /// After the process was stopped and continued: raw again.
    void reenter() const;

  private:
    RawTerminal(int fd, const termios& saved) : fd_(fd), saved_(saved) {}
    int fd_;
    termios saved_;
};

}  // namespace strata::cli
