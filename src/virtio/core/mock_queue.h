// MockQueue, MockHost: the driver's end of a split ring and a transport, for tests, fuzz targets
// and benchmarks.
//
// A MockQueue lays its rings out at a guest address, publishes chains and collects what was used.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "io/event_loop.h"
#include "memory/guest_ram.h"
#include "virtio/core/virtio_device.h"

namespace strata::virtio {

/// A DeviceHost that counts. Its RAM is 16 MiB at guest address 0.
class MockHost final : public DeviceHost {
  public:
    MockHost() : ram_(memory::GuestRam::create(16ULL << 20, 16ULL << 20).value()) {}
    [[nodiscard]] const memory::GuestMemory& memory() const override { return *ram_; }
    void raise_queue(unsigned /*queue*/) override { ++queue_interrupts; }
    void raise_config() override { ++config_interrupts; }
    void request_reset() override { needs_reset = true; }

    unsigned queue_interrupts = 0;
    unsigned config_interrupts = 0;
    bool needs_reset = false;

  private:
    std::unique_ptr<memory::GuestRam> ram_;
};

/// A buffer of a chain: where, how long, and whether the device may write it.
struct MockBuffer {
    std::uint64_t address = 0;
    std::uint32_t length = 0;
    bool writable = false;
};

class MockQueue {
  public:
    /// Rings of `size` entries at `base` (16-aligned; 32 bytes an entry and 64 more are enough).
    MockQueue(const memory::GuestMemory& memory, std::uint64_t base, std::uint16_t size)
        : memory_(&memory), base_(base), size_(size) {}

    [[nodiscard]] QueueSetup setup() const {
        return {size_, memory::GuestAddress(base_), memory::GuestAddress(available()),
                memory::GuestAddress(used())};
    }

    /// Writes descriptor `index` as given: what it says need not be sane.
    void descriptor(std::uint16_t index, std::uint64_t address, std::uint32_t length,
                    std::uint16_t flags, std::uint16_t next) {
        put(base_ + 16ULL * index, Descriptor{address, length, flags, next});
    }
    /// Publishes `head` as the next available chain.
    void publish(std::uint16_t head) {
        put(available() + 4 + 2ULL * (published_ % size_), Le16(head));
        ++published_;
        put(available() + 2, Le16(published_));
    }
    /// Chains `buffers` and publishes them; answers the head.
    std::uint16_t add(const std::vector<MockBuffer>& buffers) {
        const std::uint16_t head = next_descriptor_;
        for (std::size_t at = 0; at < buffers.size(); ++at) {
            const std::uint16_t index = next_descriptor_;
            next_descriptor_ = static_cast<std::uint16_t>((next_descriptor_ + 1) % size_);
            const bool last = at + 1 == buffers.size();
            const auto flags =
                static_cast<std::uint16_t>((buffers[at].writable ? DescriptorFlags::kWrite : 0) |
                                           (last ? 0 : DescriptorFlags::kNext));
            descriptor(index, buffers[at].address, buffers[at].length, flags, next_descriptor_);
        }
        publish(head);
        return head;
    }
    /// The next used element, if there is one.
    std::optional<UsedElement> take_used() {
        const auto index = get<Le16>(used() + 2);
        if (index == seen_) {
            return std::nullopt;
        }
        const auto element = get<UsedElement>(used() + 4 + 8ULL * (seen_ % size_));
        ++seen_;
        return element;
    }
    void set_available_flags(std::uint16_t flags) { put(available(), Le16(flags)); }
    void set_used_event(std::uint16_t event) { put(available() + 4 + 2ULL * size_, Le16(event)); }
    [[nodiscard]] std::uint16_t used_flags() const { return get<Le16>(used()); }
    [[nodiscard]] std::uint16_t avail_event() const { return get<Le16>(used() + 4 + 8ULL * size_); }

  private:
    [[nodiscard]] std::uint64_t available() const { return base_ + 16ULL * size_; }
    [[nodiscard]] std::uint64_t used() const {
        return (available() + 6 + 2ULL * size_ + 3) & ~3ULL;
    }
    template <typename T>
    void put(std::uint64_t address, const T& value) {
        STRATA_CHECK(memory_->store(memory::GuestAddress(address), value).ok(),
                     "a mock ring lies outside RAM");
    }
    template <typename T>
    [[nodiscard]] T get(std::uint64_t address) const {
        return memory_->load<T>(memory::GuestAddress(address)).value();
    }

    const memory::GuestMemory* memory_;
    std::uint64_t base_;
    std::uint16_t size_;
    std::uint16_t next_descriptor_ = 0;
    std::uint16_t published_ = 0;
    std::uint16_t seen_ = 0;
};

/// Runs what is posted on `loop`, and what that posts, until `rounds` passed without waiting.
inline void run_posted(io::EventLoop& loop, unsigned rounds = 4) {
    for (unsigned round = 0; round < rounds; ++round) {
        loop.run_once(std::chrono::milliseconds(0));
    }
}

}  // namespace strata::virtio
