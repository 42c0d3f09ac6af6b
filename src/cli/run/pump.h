// Pump: bytes from one descriptor to another on an EventLoop, at the pace of the slower one.
//
// At most one chunk is in flight: the source is read only when the chunk before it was taken, so
// nothing grows. Descriptors that epoll cannot watch (regular files) count as always ready. All
// calls on the loop's thread; destroy it there.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "io/event_loop.h"

namespace strata::cli {

class Pump {
  public:
    struct Hooks {
        std::function<void(std::string&)> filter;  ///< may look at and shorten each chunk
        std::function<void()> on_source_closed;    ///< once, when the last chunk was taken
        std::function<void()> on_sink_closed;      ///< once per sink
    };
    /// `lossy`: what the sink cannot take at once is dropped instead of holding up the source.
    Pump(io::EventLoop& loop, UniqueFd source, Hooks hooks, bool lossy = false);
    ~Pump();
    Pump(const Pump&) = delete;
    Pump& operator=(const Pump&) = delete;

    /// Starts reading; with no sink, everything is dropped.
    Result<> start();
    /// Replaces the sink; an invalid one drops everything.
    Result<> set_sink(UniqueFd sink);

  private:
    void fill();
    void drain();
    void schedule();
    void close_source();
    void close_sink();

    io::EventLoop& loop_;
    UniqueFd source_, sink_;
    Hooks hooks_;
    bool lossy_;
    bool source_pollable_ = true;
    bool sink_pollable_ = true;
    std::optional<io::EventLoop::WatchId> source_watch_, sink_watch_;
    std::string chunk_;
    /// Lets posted work find out that the pump is gone.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// A descriptor for what `fd` is open on, not blocking where that is possible without changing `fd`
/// for other processes that share it.
Result<UniqueFd> private_duplicate(int fd, int access);

}  // namespace strata::cli
