// ConsoleCable: plugging and unplugging.
#include "vmm/console_cable.h"

#include <utility>

#include "devices/serial/backends/stream_backend.h"

namespace strata::vmm {

Result<std::unique_ptr<ConsoleCable>> ConsoleCable::open(UniqueFd stream, io::EventLoop& loop) {
    std::unique_ptr<ConsoleCable> cable(new ConsoleCable(std::move(stream)));
    cable->stream_ = STRATA_TRY(devices::open_fd_backend(loop, cable->fd_.get(), cable->fd_.get()));
    return cable;
}

void ConsoleCable::connect(virtio::ConsoleDevice* device) {
    device_ = device;
    stream_->connect(device == nullptr ? nullptr : this);
}

void ConsoleCable::resize(std::uint16_t columns, std::uint16_t rows) {
    if (device_ != nullptr) {
        device_->resize(columns, rows);
    }
}

void ConsoleCable::output_ready() {
    if (device_ != nullptr) {
        device_->output_ready();
    }
}

}  // namespace strata::vmm
