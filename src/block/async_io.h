// AsyncIo: asynchronous I/O on host files: the seam between image formats and the engines.
//
// An engine executes commands on descriptors and answers what the system call answered; it knows
// nothing of images. Short transfers are the caller's business. Threads: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <sys/uio.h>

#include "base/result.h"
#include "block/disk_image.h"

namespace strata::block {

enum class IoOp : std::uint8_t { Readv, Writev, Datasync, Fallocate };

/// What to do. `vectors` stay valid until the completion was reaped.
struct IoCommand {
    IoOp op = IoOp::Readv;
    int fd = -1;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;  ///< Fallocate
    const iovec* vectors = nullptr;
    unsigned count = 0;  ///< at most IOV_MAX
    bool aside = false;  ///< costs CPU time (a copy from or to the host's cache): another thread is
                         ///< welcome to do it
    int flags = 0;       ///< Readv, Writev: RWF_*; Fallocate: the mode
    std::uint64_t token = 0;
};

struct IoCompletion {
    std::uint64_t token = 0;
    std::int64_t result = 0;  ///< bytes, or a negative errno
};

class AsyncIo {
  public:
    virtual ~AsyncIo() = default;
    /// Takes a command; at most the depth given at creation are under way at a time, the rest wait
    /// inside.
    virtual void submit(const IoCommand& command) = 0;
    virtual void kick() = 0;
    [[nodiscard]] virtual int completion_fd() const = 0;
    virtual void reap(std::vector<IoCompletion>& out) = 0;
    /// Waits until reap() has something, if anything is under way.
    virtual void wait() = 0;
    /// On: commands are executed within submit(), and no thread is needed. An engine without
    /// threads of its own has no use for it.
    virtual void set_inline(bool on) { (void)on; }
};

/// Makes an engine. Auto takes io_uring where the host allows it, else threads. NotSupported: Uring
/// was insisted on and is refused.
Result<std::unique_ptr<AsyncIo>> make_async_io(IoEngine engine, unsigned depth);

/// The engine with threads, in inline mode and without any thread yet: set_inline(false) starts
/// them.
Result<std::unique_ptr<AsyncIo>> make_inline_io(unsigned depth);

/// True if this process may use io_uring. Probed once.
bool uring_available();

}  // namespace strata::block
