// StreamBackend and its makers: a serial cable that ends in a host descriptor: terminal, pipe,
// socket, file, pty or listening Unix socket.
//
// Output goes through a bounded buffer that the event loop empties; a full buffer holds the guest
// back (SerialBackend). Descriptors are used non-blocking without changing those that are shared
// with other processes: sockets by MSG_DONTWAIT, terminals and pipes by an open of their own
// through /proc/self/fd; if that is refused, by O_NONBLOCK, taken back at the end. The process
// ignores SIGPIPE. Threads: as SerialBackend says; made and destroyed on the loop's thread or while
// it stands.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/serial/serial_backend.h"
#include "io/event_loop.h"

namespace strata::devices {

/// Reads from `input` and writes to `output` (either may be -1: none; both may be the same);
/// borrowed, they stay open as long as the backend lives. End of input is not the end of output.
Result<std::unique_ptr<SerialBackend>> open_fd_backend(io::EventLoop& loop, int input, int output);

/// As open_fd_backend() with descriptors 0 and 1. Raw mode is the caller's business.
Result<std::unique_ptr<SerialBackend>> open_stdio_backend(io::EventLoop& loop);

/// Writes to `path`, which is made or emptied; no input.
Result<std::unique_ptr<SerialBackend>> open_file_backend(io::EventLoop& loop,
                                                         const std::string& path);

/// A new pseudo-terminal in raw mode; `name` becomes its path ("/dev/pts/7"). Output while nobody
/// has it open is dropped.
Result<std::unique_ptr<SerialBackend>> open_pty_backend(io::EventLoop& loop, std::string& name);

/// Listens at Unix socket `path` and serves one client at a time; further ones wait. A stale socket
/// file (nobody listens) is replaced; anything else at `path` is AlreadyExists. Output while nobody
/// is connected is dropped.
Result<std::unique_ptr<SerialBackend>> open_unix_backend(io::EventLoop& loop,
                                                         const std::string& path);

/// Uses an already listening socket, e.g. one passed by a parent process.
Result<std::unique_ptr<SerialBackend>> open_listener_backend(io::EventLoop& loop,
                                                             UniqueFd listener);

}  // namespace strata::devices
