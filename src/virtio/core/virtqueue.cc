// Virtqueue: what both ring formats share, and the choice between them.
#include "virtio/core/virtqueue.h"

#include "virtio/core/packed_queue.h"
#include "virtio/core/split_queue.h"

namespace strata::virtio {

Result<> Virtqueue::append_buffer(std::uint64_t address, std::uint32_t length, bool writable,
                                  std::vector<DescriptorChain::Buffer>& buffers,
                                  std::size_t& first_writable) const {
    if (length != 0) {
        buffers.push_back({memory::GuestAddress(address), length});
    }
    if (!writable) {
        // VIRTIO 1.2, 2.7.4.2: readable before writable.
        if (first_writable + (length != 0 ? 1 : 0) != buffers.size()) {
            return Error{ErrorKind::Failed, "a readable descriptor follows a writable one"};
        }
        first_writable = buffers.size();
    }
    return ok();
}

std::vector<DescriptorChain::Buffer> Virtqueue::take_spare() {
    if (spares_.empty()) {
        return {};
    }
    auto spare = std::move(spares_.back());
    spares_.pop_back();
    spare.clear();
    return spare;
}

void Virtqueue::keep_spare(std::vector<DescriptorChain::Buffer> buffers) {
    constexpr std::size_t kSpares = 64;
    if (spares_.size() < kSpares) {
        spares_.push_back(std::move(buffers));
    }
}

Result<std::unique_ptr<Virtqueue>> make_virtqueue(const memory::GuestMemory& memory,
                                                  const QueueSetup& setup, std::uint64_t features) {
    return (features & Feature::kRingPacked) != 0 ? PackedQueue::create(memory, setup, features)
                                                  : SplitQueue::create(memory, setup, features);
}

}  // namespace strata::virtio
