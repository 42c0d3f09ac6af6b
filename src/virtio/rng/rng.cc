// RngDevice: filling buffers within the budget.
#include "virtio/rng/rng.h"

#include <algorithm>
#include <array>

#include <sys/random.h>

namespace strata::virtio {

RngDevice::RngDevice(const RngConfig& config, io::EventLoop& loop)
    : QueuedDevice(config.label, {256}, loop),
      bytes_per_second_(std::max<std::uint64_t>(config.bytes_per_second, kMaxBytes)),
      budget_(bytes_per_second_),
      grown_(io::EventLoop::Clock::now()) {}

RngDevice::~RngDevice() {
    const MutexLock lock(mutex_);
    loop().cancel(timer_);
}

void RngDevice::grow_budget() {
    const auto now = io::EventLoop::Clock::now();
    const auto passed = std::chrono::duration_cast<std::chrono::microseconds>(now - grown_);
    const auto micros =
        static_cast<std::uint64_t>(std::clamp<std::int64_t>(passed.count(), 0, 1'000'000));
    budget_ = std::min(bytes_per_second_, budget_ + bytes_per_second_ / 1000 * micros / 1000);
    grown_ = now;
}

Result<> RngDevice::serve(unsigned index) {
    Virtqueue& ring = *queue(index);
    grow_budget();
    ring.disable_notifications();
    for (unsigned count = 0; count < kBatch; ++count) {
        if (budget_ < kMaxBytes) {
            loop().cancel(timer_);
            timer_ = loop().at(io::EventLoop::Clock::now() + std::chrono::milliseconds(20),
                               [this] { wake(0); });
            signal(index);
            return ok();
        }
        auto chain = STRATA_TRY(ring.pop());
        if (chain) {
            STRATA_TRY_VOID(fill(std::move(*chain)));
        } else if (!ring.enable_notifications()) {
            signal(index);
            return ok();
        }
    }
    signal(index);
    wake(index);
    return ok();
}

Result<> RngDevice::fill(DescriptorChain chain) {
    const std::uint64_t wanted = std::min(chain.writable(), kMaxBytes);
    std::array<std::byte, 256> bytes{};
    std::uint64_t done = 0;
    while (done < wanted) {
        const auto part =
            std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), wanted - done));
        // getrandom gives up to 256 bytes at once and whole (random(7)).
        if (::getrandom(part.data(), part.size(), 0) != static_cast<ssize_t>(part.size())) {
            break;  // the driver gets what there is
        }
        if (auto written = chain.write(done, part); !written.ok()) {
            std::move(chain).abandon();
            return written;
        }
        done += part.size();
    }
    budget_ -= done;
    queue(0)->push(std::move(chain), static_cast<std::uint32_t>(done));
    return ok();
}

}  // namespace strata::virtio
