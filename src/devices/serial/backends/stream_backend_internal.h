// StreamBackend: the class behind stream_backend.h's makers. Only its own files and tests include
// this.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "devices/serial/serial_backend.h"
#include "io/event_loop.h"

namespace strata::devices {

/// One direction of a stream: an own, non-blocking descriptor (or one used with MSG_DONTWAIT).
struct StreamEnd {
    UniqueFd fd;
    bool socket = false;
};

/// What happens when the other side goes away: nothing more, look until somebody opens it again,
/// wait for the next client.
enum class StreamKind { Fixed, Pty, Listener };

class StreamBackend final : public SerialBackend {
  public:
    StreamBackend(io::EventLoop& loop, StreamKind kind, StreamEnd input, StreamEnd output);
    ~StreamBackend() override;

    /// Gives a Listener its socket; `path` is removed at the end if not empty. Before start().
    void listen(UniqueFd listener, std::string path);
    /// Begins to watch.
    void start();

    void connect(SerialPeer* peer) override;
    std::size_t write(std::span<const std::byte> data) override;
    void input_ready() override;
    void flush(std::chrono::milliseconds limit) override;

  private:
    void post(void (StreamBackend::*work)());
    void drain();
    void took(std::size_t count);
    void plug();
    void unplug();
    void hang_up();
    void watch_input();
    void watch_output();
    void watch_listener();
    void unwatch(io::EventLoop::WatchId& id);
    void accept_client();
    void read_input();
    void end_input();
    void pass_input();
    void probe();
    void probe_later();

    io::EventLoop& loop_;
    const StreamKind kind_;
    /// Posted work holds it weakly. shared_ptr: only for its weak_ptr.
    const std::shared_ptr<char> alive_ = std::make_shared<char>();

    // Of the loop's thread alone.
    StreamEnd input_;
    StreamEnd output_;
    UniqueFd listener_;
    std::string path_;
    io::EventLoop::WatchId input_watch_ = 0;
    io::EventLoop::WatchId output_watch_ = 0;
    io::EventLoop::WatchId listen_watch_ = 0;
    io::EventLoop::TimerId probe_ = 0;
    bool probing_ = false;
    std::vector<std::byte> unread_;  ///< read, not yet taken by the UART

    Mutex mutex_;
    SerialPeer* peer_ STRATA_GUARDED_BY(mutex_) = nullptr;
    std::deque<std::byte> pending_ STRATA_GUARDED_BY(mutex_);
    bool plugged_ STRATA_GUARDED_BY(mutex_) = false;
    bool draining_ STRATA_GUARDED_BY(mutex_) =
        false;                                        ///< drain() is posted, running or watched for
    bool refused_ STRATA_GUARDED_BY(mutex_) = false;  ///< a write was cut: output_ready() is owed
};

}  // namespace strata::devices
