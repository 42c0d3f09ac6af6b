// SplitQueue: available ring, descriptor table, used ring.
#include "virtio/core/split_queue.h"

#include <bit>

namespace strata::virtio {
namespace {

constexpr std::size_t kFlags = 0;
constexpr std::size_t kIndex = 2;
constexpr std::size_t kRing = 4;
constexpr std::uint16_t kNoInterrupt = 1;  // available ring flags
constexpr std::uint16_t kNoNotify = 1;     // used ring flags

Error broken(const char* why) {
    return {ErrorKind::Failed, why};
}

}  // namespace

Result<std::unique_ptr<Virtqueue>> SplitQueue::create(const memory::GuestMemory& memory,
                                                      const QueueSetup& setup,
                                                      std::uint64_t features) {
    if (!std::has_single_bit(setup.size) || setup.size > kMaxSize) {
        return broken("a split virtqueue's size is not a power of two");
    }
    std::unique_ptr<SplitQueue> queue(new SplitQueue(memory, setup.size, features));
    const std::uint64_t size = setup.size;
    queue->descriptors_ = STRATA_TRY(RingMemory::map(memory, setup.descriptors, 16 * size, 16));
    queue->available_ = STRATA_TRY(RingMemory::map(memory, setup.driver, 6 + 2 * size, 2));
    queue->used_ = STRATA_TRY(RingMemory::map(memory, setup.device, 6 + 8 * size, 4));
    return std::unique_ptr<Virtqueue>(std::move(queue));
}

Result<std::optional<DescriptorChain>> SplitQueue::pop() {
    // acquire: the ring entry and the descriptors were written before the index.
    const auto published = available_.load16(kIndex, std::memory_order_acquire);
    const auto waiting = static_cast<std::uint16_t>(published - next_available_);
    if (waiting == 0) {
        return std::optional<DescriptorChain>();
    }
    if (waiting > size_ || in_flight_ >= size_) {
        return broken("the driver published more chains than the queue has places");
    }
    const std::uint16_t head =
        available_.load16(kRing + 2 * std::size_t(next_available_ & (size_ - 1)));
    auto buffers = take_spare();
    std::size_t first_writable = 0;
    STRATA_TRY_VOID(collect(head, buffers, first_writable));
    ++next_available_;
    ++in_flight_;
    return std::optional<DescriptorChain>(std::in_place, memory_, head, std::uint16_t{1},
                                          std::move(buffers), first_writable);
}

Result<> SplitQueue::collect(std::uint16_t head, std::vector<DescriptorChain::Buffer>& buffers,
                             std::size_t& first_writable) const {
    std::uint16_t at = head;
    for (unsigned count = 0; count < size_; ++count) {
        if (at >= size_) {
            return broken("a descriptor index is out of range");
        }
        const auto descriptor = descriptors_.copy<Descriptor>(16 * std::size_t{at});
        const std::uint16_t flags = descriptor.flags;
        if ((flags & DescriptorFlags::kIndirect) != 0) {
            if (!indirect_ || (flags & DescriptorFlags::kNext) != 0) {
                return broken("an indirect descriptor is not allowed here");
            }
            return collect_indirect(descriptor, buffers, first_writable);
        }
        STRATA_TRY_VOID(append_buffer(descriptor.address, descriptor.length,
                                      (flags & DescriptorFlags::kWrite) != 0, buffers,
                                      first_writable));
        if ((flags & DescriptorFlags::kNext) == 0) {
            return ok();
        }
        at = descriptor.next;
    }
    return broken("a descriptor chain is longer than its queue");
}

Result<> SplitQueue::collect_indirect(const Descriptor& table,
                                      std::vector<DescriptorChain::Buffer>& buffers,
                                      std::size_t& first_writable) const {
    const std::uint32_t length = table.length;
    const std::size_t entries = length / sizeof(Descriptor);
    if (length % sizeof(Descriptor) != 0 || entries == 0 || entries > kMaxChain) {
        return broken("an indirect table has a bad size");
    }
    std::vector<Descriptor> copy(entries);
    STRATA_TRY_VOID(
        memory_.read(memory::GuestAddress(table.address), std::as_writable_bytes(std::span(copy))));
    std::size_t at = 0;
    for (std::size_t count = 0; count < entries; ++count) {
        const Descriptor& descriptor = copy[at];
        const std::uint16_t flags = descriptor.flags;
        if ((flags & DescriptorFlags::kIndirect) != 0) {
            return broken("an indirect table holds an indirect descriptor");
        }
        STRATA_TRY_VOID(append_buffer(descriptor.address, descriptor.length,
                                      (flags & DescriptorFlags::kWrite) != 0, buffers,
                                      first_writable));
        if ((flags & DescriptorFlags::kNext) == 0) {
            return ok();
        }
        at = descriptor.next;
        if (at >= entries) {
            return broken("an indirect descriptor index is out of range");
        }
    }
    return broken("an indirect descriptor chain is a loop");
}

void SplitQueue::stage(DescriptorChain chain, std::uint32_t written) {
    const std::size_t place = kRing + 8 * std::size_t(next_used_ & (size_ - 1));
    used_.put(place, UsedElement{std::uint32_t{chain.head_}, written});
    ++next_used_;
    --in_flight_;
    keep_spare(std::move(chain.buffers_));
    std::move(chain).abandon();
}

void SplitQueue::publish() {
    // release: the elements and the data before them become visible first.
    used_.store16(kIndex, next_used_, std::memory_order_release);
}

void SplitQueue::unpop(DescriptorChain chain) {
    --next_available_;
    --in_flight_;
    keep_spare(std::move(chain.buffers_));
    std::move(chain).abandon();
}

bool SplitQueue::should_interrupt() {
    const std::uint16_t before = std::exchange(signalled_used_, next_used_);
    if (before == next_used_) {
        return false;
    }
    // seq_cst: our index must be visible before we look what the driver wants; the driver does the
    // opposite.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!event_index_) {
        return (available_.load16(kFlags) & kNoInterrupt) == 0;
    }
    const std::uint16_t event = available_.load16(used_event_offset());
    // VIRTIO 1.2, 2.7.7.2: did we pass the entry that the driver waits for?
    return static_cast<std::uint16_t>(next_used_ - event - 1) <
           static_cast<std::uint16_t>(next_used_ - before);
}

bool SplitQueue::enable_notifications() {
    if (event_index_) {
        used_.store16(avail_event_offset(), next_available_);
    } else {
        used_.store16(kFlags, 0);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return available_.load16(kIndex, std::memory_order_acquire) != next_available_;
}

void SplitQueue::disable_notifications() {
    if (!event_index_) {
        used_.store16(kFlags, kNoNotify);
    }
}

void SplitQueue::save(state::StateWriter& writer) const {
    writer.u16(next_available_);
    writer.u16(next_used_);
    writer.u16(signalled_used_);
}

void SplitQueue::load(state::StateReader& reader) {
    next_available_ = reader.u16();
    next_used_ = reader.u16();
    signalled_used_ = reader.u16();
}

}  // namespace strata::virtio
