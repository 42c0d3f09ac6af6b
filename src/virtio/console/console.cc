// ConsoleDevice: output with back-pressure, input into the driver's buffers.
#include "virtio/console/console.h"

#include <algorithm>
#include <array>

namespace strata::virtio {
namespace {

/// VIRTIO 1.2, 5.3.4.
struct WireConfig {
    Le16 columns;
    Le16 rows;
    Le32 max_ports;
    Le32 emergency_write;
};
static_assert(sizeof(WireConfig) == 12);

}  // namespace

ConsoleDevice::ConsoleDevice(const ConsoleConfig& config, ConsoleBackend& backend,
                             io::EventLoop& loop)
    : QueuedDevice(config.label, {256, 256}, loop),
      backend_(backend),
      columns_(config.columns),
      rows_(config.rows) {}

ConsoleDevice::~ConsoleDevice() {
    const MutexLock lock(mutex_);
    queue_stopping(kTransmit);
}

void ConsoleDevice::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const MutexLock lock(mutex_);
    const WireConfig config{columns_, rows_, 1U, 0U};
    copy_config(std::as_bytes(std::span(&config, 1)), offset, data);
}

Result<> ConsoleDevice::serve(unsigned index) {
    if (index == kTransmit) {
        return transmit();
    }
    // New receive buffers: nothing to do but to let the host know; it is asked to notify only when
    // input waits.
    if (input_waits_ && !queue(kReceive)->enable_notifications()) {
        return ok();
    }
    queue(kReceive)->disable_notifications();
    if (std::exchange(input_waits_, false)) {
        backend_.input_ready();
    }
    return ok();
}

Result<> ConsoleDevice::transmit() {
    Virtqueue& ring = *queue(kTransmit);
    ring.disable_notifications();
    for (unsigned count = 0; count < kBatch; ++count) {
        if (pending_) {
            if (!STRATA_TRY(write_pending())) {
                signal(kTransmit);
                return ok();  // output_ready() continues
            }
        }
        pending_ = STRATA_TRY(ring.pop());
        pending_done_ = std::exchange(skip_, 0);
        if (!pending_) {
            skip_ = pending_done_;
        }
        if (!pending_ && !ring.enable_notifications()) {
            signal(kTransmit);
            return ok();
        }
    }
    signal(kTransmit);
    wake(kTransmit);
    return ok();
}

Result<bool> ConsoleDevice::write_pending() {
    std::array<std::byte, 4096> bytes{};
    // A chain may describe gigabytes: a bounded part in each turn.
    constexpr std::uint64_t kTurn = 1ULL << 20;
    const std::uint64_t end = std::min(pending_->readable(), pending_done_ + kTurn);
    while (pending_done_ < end) {
        const auto part =
            std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), end - pending_done_));
        if (auto read = pending_->read(pending_done_, part); !read.ok()) {
            queue_stopping(kTransmit);
            return std::move(read).error();
        }
        const std::size_t taken = std::min(backend_.write(part), part.size());
        pending_done_ += taken;
        if (taken < part.size()) {
            return false;
        }
    }
    if (end < pending_->readable()) {
        wake(kTransmit);
        return false;
    }
    queue(kTransmit)->push(std::move(*pending_), 0);
    pending_.reset();
    return true;
}

std::size_t ConsoleDevice::receive(std::span<const std::byte> data) {
    const MutexLock lock(mutex_);
    std::size_t done = 0;
    // Bounded: empty buffers take no input, and a driver may publish them without end.
    for (unsigned count = 0; count < 2 * Virtqueue::kMaxSize && done < data.size() && serving() &&
                             queue(kReceive) != nullptr;
         ++count) {
        auto chain = queue(kReceive)->pop();
        if (!chain.ok()) {
            fail(chain.error());
            break;
        }
        if (!*chain) {
            if (queue(kReceive)->enable_notifications()) {
                continue;
            }
            break;
        }
        const auto part =
            data.subspan(done, std::min<std::uint64_t>((*chain)->writable(), data.size() - done));
        if (const auto written = (*chain)->write(0, part); !written.ok()) {
            std::move(**chain).abandon();
            fail(written.error());
            break;
        }
        queue(kReceive)->push(std::move(**chain), static_cast<std::uint32_t>(part.size()));
        done += part.size();
    }
    input_waits_ = done < data.size();
    if (serving()) {
        signal(kReceive);
    }
    return done;
}

void ConsoleDevice::resize(std::uint16_t columns, std::uint16_t rows) {
    const MutexLock lock(mutex_);
    columns_ = columns;
    rows_ = rows;
    config_changed();
}

void ConsoleDevice::queue_stopping(unsigned index) {
    if (index == kTransmit) {
        skip_ = 0;
        if (pending_) {
            std::move(*pending_).abandon();
            pending_.reset();
        }
    }
}

void ConsoleDevice::drain() {
    // What the backend did not take goes back to the ring: it is written again from its first byte
    // that was not taken.
    if (pending_) {
        queue(kTransmit)->unpop(std::move(*pending_));
        pending_.reset();
        skip_ = pending_done_;
    }
}

void ConsoleDevice::save_device(state::StateWriter& writer) const {
    writer.u16(columns_);
    writer.u16(rows_);
    writer.u64(skip_);
}

void ConsoleDevice::load_device(state::StateReader& reader) {
    columns_ = reader.u16();
    rows_ = reader.u16();
    skip_ = reader.u64();
    input_waits_ = true;
}

}  // namespace strata::virtio
