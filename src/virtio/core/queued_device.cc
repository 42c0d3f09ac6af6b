// QueuedDevice: life cycle, wake-ups, state.
#include "virtio/core/queued_device.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/log.h"

namespace strata::virtio {

void copy_config(std::span<const std::byte> config, std::uint64_t offset,
                 std::span<std::byte> data) {
    for (std::byte& out : data) {
        out = offset < config.size() ? config[offset] : std::byte{0};
        ++offset;
    }
}

QueuedDevice::QueuedDevice(std::string label, std::vector<std::uint16_t> queue_sizes,
                           io::EventLoop& loop)
    : label_(std::move(label)),
      sizes_(std::move(queue_sizes)),
      loop_(loop),
      woken_(std::make_unique<std::atomic<bool>[]>(sizes_.size())),
      queues_(sizes_.size()) {}

Result<> QueuedDevice::activate(const Activation& activation) {
    {
        const MutexLock lock(mutex_);
        for (std::size_t index = 0; index < queues_.size() && index < activation.queues.size();
             ++index) {
            if (activation.queues[index]) {
                queues_[index] = STRATA_TRY(make_virtqueue(
                    host_->memory(), *activation.queues[index], activation.features));
            }
        }
        features_ = activation.features;
        broken_ = false;
        active_ = true;
        started();
    }
    for (unsigned index = 0; index < sizes_.size(); ++index) {
        notify(index);
    }
    return ok();
}

void QueuedDevice::reset() {
    const MutexLock lock(mutex_);
    active_ = false;
    broken_ = false;
    for (unsigned index = 0; index < queues_.size(); ++index) {
        if (queues_[index]) {
            queue_stopping(index);
            queues_[index].reset();
        }
    }
}

bool QueuedDevice::idle() const {
    const MutexLock lock(mutex_);
    for (unsigned index = 0; index < queues_.size(); ++index) {
        if (!quiet(index)) {
            return false;
        }
    }
    return true;
}

void QueuedDevice::stop_queue(unsigned queue) {
    const MutexLock lock(mutex_);
    if (queues_[queue]) {
        queue_stopping(queue);
        queues_[queue].reset();
    }
}

bool QueuedDevice::queue_idle(unsigned queue) const {
    const MutexLock lock(mutex_);
    return quiet(queue);
}

Result<> QueuedDevice::start_queue(unsigned queue, const QueueSetup& setup) {
    {
        const MutexLock lock(mutex_);
        queues_[queue] = STRATA_TRY(make_virtqueue(host_->memory(), setup, features_));
    }
    notify(queue);
    return ok();
}

void QueuedDevice::notify(unsigned queue) {
    // acq_rel: pairs with run(), which clears the mark before it looks at the ring.
    if (queue < sizes_.size() && !woken_[queue].exchange(true, std::memory_order_acq_rel)) {
        loop_.post([this, queue] { run(queue); });
    }
}

void QueuedDevice::run(unsigned queue) {
    woken_[queue].exchange(false, std::memory_order_acq_rel);
    const MutexLock lock(mutex_);
    if (serving() && queues_[queue]) {
        const auto served = serve(queue);
        if (!served.ok()) {
            fail(served.error());
        }
    }
}

Result<> QueuedDevice::serve(unsigned index) {
    Virtqueue& ring = *queues_[index];
    ring.disable_notifications();
    for (unsigned count = 0; count < kBatch; ++count) {
        auto chain = STRATA_TRY(ring.pop());
        if (chain) {
            STRATA_TRY_VOID(serve_chain(index, std::move(*chain)));
        } else if (!ring.enable_notifications()) {
            signal(index);
            return ok();
        }
    }
    signal(index);
    wake(index);
    return ok();
}

Result<> QueuedDevice::serve_chain(unsigned index, DescriptorChain chain) {
    queues_[index]->push(std::move(chain), 0);
    return ok();
}

void QueuedDevice::signal(unsigned index) {
    if (queues_[index] && queues_[index]->should_interrupt()) {
        host_->raise_queue(index);
    }
}

void QueuedDevice::fail(const Error& error) {
    static log::RateLimit limit;
    log::guest(limit,
               "the driver broke the rules; the device waits for a reset device={} reason='{}'",
               label_, error.text());
    broken_ = true;
    host_->request_reset();
}

void QueuedDevice::config_changed() {
    generation_.fetch_add(1, std::memory_order_release);
    if (serving()) {
        host_->raise_config();
    }
}

Result<> QueuedDevice::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    drain();
    return ok();
}

Result<> QueuedDevice::resume() {
    {
        const MutexLock lock(mutex_);
        paused_ = false;
    }
    for (unsigned index = 0; index < sizes_.size(); ++index) {
        notify(index);
    }
    return ok();
}

Result<> QueuedDevice::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(fmt::format("virtio:{}", label_), 1);
    writer.boolean(broken_);
    writer.u8(config_generation());
    for (const auto& ring : queues_) {
        writer.boolean(ring != nullptr);
        if (ring) {
            // The chains that broke a device are gone, and so is all use of its queues until the
            // reset.
            STRATA_CHECK(broken_ || ring->in_flight() == 0,
                         "a queue is saved while requests are under way");
            ring->save(writer);
        }
    }
    save_device(writer);
    writer.end();
    return ok();
}

Result<> QueuedDevice::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    STRATA_TRY_VOID(reader.begin(fmt::format("virtio:{}", label_), 1));
    broken_ = reader.boolean();
    generation_.store(reader.u8(), std::memory_order_release);
    for (const auto& ring : queues_) {
        if (reader.boolean() != (ring != nullptr)) {
            reader.reject("a queue is in use on one side only");
        } else if (ring) {
            ring->load(reader);
        }
    }
    load_device(reader);
    return reader.end();
}

}  // namespace strata::virtio
