// Ring: an io_uring and the signal that tells of its completions; RingStock: rings made ahead, for
// a process that locks itself up.
//
// Operations of a ring pass no system call filter. So a locked-up process may make none, and those
// it has from before are restricted for good: they read, write, sync and fallocate descriptors that
// are open, which it may do by system calls anyway, and nothing can be registered with them, no
// identity and no buffer either (docs/threat-model.md).
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <liburing.h>

#include "base/mutex.h"
#include "base/result.h"
#include "block/async_io.h"
#include "io/event_fd.h"

namespace strata::block {

class Ring {
  public:
    enum class Rights : bool { All, Restricted };
    static Result<std::unique_ptr<Ring>> create(unsigned depth, Rights rights);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    [[nodiscard]] io_uring* get() { return &ring_; }
    [[nodiscard]] io::EventFd& done() { return done_; }
    [[nodiscard]] unsigned depth() const { return depth_; }

  private:
    Ring(io::EventFd done, unsigned depth) : done_(std::move(done)), depth_(depth) {}
    Result<> set_up(Rights rights);
    io_uring ring_{};
    bool made_ = false;
    io::EventFd done_;
    const unsigned depth_;
};

class RingStock : public std::enable_shared_from_this<RingStock> {
  public:
    /// `count` restricted rings; fewer, or none, where the host gives no more or few descriptors
    /// would be left.
    static std::shared_ptr<RingStock> create(unsigned count, unsigned depth);
    /// From now on the engines that this process makes (make_async_io(), Auto) are on rings of
    /// `stock`, and on threads when it has none left. Null: each makes its own ring again. While
    /// no other thread makes engines.
    static void adopt(std::shared_ptr<RingStock> stock);
    /// Null: none was adopted.
    static RingStock* adopted();
    /// An engine on one of them, which comes back when the engine goes; null: none is left. Any
    /// thread.
    std::unique_ptr<AsyncIo> take();
    void give_back(std::unique_ptr<Ring> ring);
    [[nodiscard]] std::size_t left() const;

  private:
    RingStock() = default;
    static std::shared_ptr<RingStock>& of_process();
    mutable Mutex mutex_;
    std::vector<std::unique_ptr<Ring>> rings_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::block
