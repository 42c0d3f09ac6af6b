// ConsoleCable: joins the guest's paravirtual console to a stream of the host.
//
// The stream side is the one that serial ports use; this only translates between the two sides'
// words. Threads: everything on the event loop's thread, which both sides use anyhow.
#pragma once

#include <chrono>
#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/serial/serial_backend.h"
#include "io/event_loop.h"
#include "virtio/console/console.h"

namespace strata::vmm {

class ConsoleCable final : public virtio::ConsoleBackend, private devices::SerialPeer {
  public:
    /// On `stream`, a stream socket.
    static Result<std::unique_ptr<ConsoleCable>> open(UniqueFd stream, io::EventLoop& loop);

    /// Plugs the device in; nullptr unplugs it, before it is destroyed.
    void connect(virtio::ConsoleDevice* device);
    /// The host's terminal has a new size.
    void resize(std::uint16_t columns, std::uint16_t rows);
    /// Writes out what is still buffered, waiting at most `limit`; the event loop must not run.
    void flush(std::chrono::milliseconds limit) { stream_->flush(limit); }

    std::size_t write(std::span<const std::byte> data) override { return stream_->write(data); }
    void input_ready() override { stream_->input_ready(); }

  private:
    explicit ConsoleCable(UniqueFd fd) : fd_(std::move(fd)) {}
    std::size_t receive(std::span<const std::byte> data) override {
        return device_ == nullptr ? 0 : device_->receive(data);
    }
    void output_ready() override;

    UniqueFd fd_;
    std::unique_ptr<devices::SerialBackend> stream_;
    virtio::ConsoleDevice* device_ = nullptr;
};

}  // namespace strata::vmm
