// PackedQueue: wrap counters, chains, event suppression.
#include "virtio/core/packed_queue.h"

#include <algorithm>

namespace strata::virtio {
namespace {

// Offsets inside a descriptor: address 0, length 8, id 12, flags 14. VIRTIO 1.2, 2.8.13.
constexpr std::size_t kDescriptor = 16;
constexpr std::size_t kFlags = 14;
constexpr std::uint16_t kAvailable = 1U << 7;
constexpr std::uint16_t kUsed = 1U << 15;
// Event suppression: position (15 bits and wrap), then flags. VIRTIO 1.2, 2.8.14.
constexpr std::size_t kEventPosition = 0;
constexpr std::size_t kEventFlags = 2;
constexpr std::uint16_t kEventEnable = 0;
constexpr std::uint16_t kEventDisable = 1;
constexpr std::uint16_t kEventAtPosition = 2;

struct PackedDescriptor {
    Le64 address;
    Le32 length;
    Le16 id;
    Le16 flags;
};
static_assert(sizeof(PackedDescriptor) == kDescriptor);

Error broken(const char* why) {
    return {ErrorKind::Failed, why};
}

}  // namespace

Result<std::unique_ptr<Virtqueue>> PackedQueue::create(const memory::GuestMemory& memory,
                                                       const QueueSetup& setup,
                                                       std::uint64_t features) {
    if (setup.size == 0 || setup.size > kMaxSize) {
        return broken("a packed virtqueue has a size that is not offered");
    }
    std::unique_ptr<PackedQueue> queue(new PackedQueue(memory, setup.size, features));
    queue->descriptors_ =
        STRATA_TRY(RingMemory::map(memory, setup.descriptors, kDescriptor * setup.size, 16));
    queue->driver_event_ = STRATA_TRY(RingMemory::map(memory, setup.driver, 4, 4));
    queue->device_event_ = STRATA_TRY(RingMemory::map(memory, setup.device, 4, 4));
    return std::unique_ptr<Virtqueue>(std::move(queue));
}

void PackedQueue::advance(Position& position, unsigned places) const {
    const unsigned next = position.index + places;
    position.wrap = next >= size_ ? !position.wrap : position.wrap;
    position.index = static_cast<std::uint16_t>(next >= size_ ? next - size_ : next);
}

bool PackedQueue::available(const Position& position) const {
    // acquire: the rest of the descriptor, and the chain's other descriptors, were written before
    // these flags.
    const auto flags =
        descriptors_.load16(kDescriptor * position.index + kFlags, std::memory_order_acquire);
    return ((flags & kAvailable) != 0) == position.wrap && ((flags & kUsed) != 0) != position.wrap;
}

Result<std::optional<DescriptorChain>> PackedQueue::pop() {
    if (slots_out_ >= size_ || !available(next_available_)) {
        return std::optional<DescriptorChain>();
    }
    auto buffers = take_spare();
    std::size_t first_writable = 0;
    Position at = next_available_;
    for (unsigned places = 1; places <= size_ - slots_out_; ++places) {
        const auto descriptor = descriptors_.copy<PackedDescriptor>(kDescriptor * at.index);
        const std::uint16_t flags = descriptor.flags;
        advance(at, 1);
        const bool more = (flags & DescriptorFlags::kNext) != 0;
        if ((flags & DescriptorFlags::kIndirect) != 0) {
            if (!indirect_ || more || places != 1) {
                return broken("an indirect descriptor is not allowed here");
            }
            STRATA_TRY_VOID(
                collect_indirect(descriptor.address, descriptor.length, buffers, first_writable));
        } else {
            STRATA_TRY_VOID(append_buffer(descriptor.address, descriptor.length,
                                          (flags & DescriptorFlags::kWrite) != 0, buffers,
                                          first_writable));
        }
        if (!more) {
            next_available_ = at;
            slots_out_ += places;
            ++in_flight_;
            return std::optional<DescriptorChain>(std::in_place, memory_, descriptor.id.value(),
                                                  static_cast<std::uint16_t>(places),
                                                  std::move(buffers), first_writable);
        }
    }
    return broken("a descriptor chain is longer than its queue");
}

Result<> PackedQueue::collect_indirect(std::uint64_t address, std::uint32_t length,
                                       std::vector<DescriptorChain::Buffer>& buffers,
                                       std::size_t& first_writable) const {
    const std::size_t entries = length / kDescriptor;
    if (length % kDescriptor != 0 || entries == 0 || entries > kMaxChain) {
        return broken("an indirect table has a bad size");
    }
    std::vector<PackedDescriptor> table(entries);
    STRATA_TRY_VOID(
        memory_.read(memory::GuestAddress(address), std::as_writable_bytes(std::span(table))));
    for (const PackedDescriptor& each : table) {
        STRATA_TRY_VOID(append_buffer(each.address, each.length,
                                      (each.flags & DescriptorFlags::kWrite) != 0, buffers,
                                      first_writable));
    }
    return ok();
}

void PackedQueue::stage(DescriptorChain chain, std::uint32_t written) {
    const std::size_t offset = kDescriptor * next_used_.index;
    std::uint16_t flags = next_used_.wrap ? kAvailable | kUsed : 0;
    flags |= written != 0 ? DescriptorFlags::kWrite : std::uint16_t{0};
    descriptors_.put(offset + 8, Le32(written));
    descriptors_.put(offset + 12, Le16(chain.head_));
    if (staged_) {
        // Ordinary: the driver cannot come here before it has seen the first one of the batch.
        descriptors_.store16(offset + kFlags, flags);
    } else {
        staged_ = Staged{next_used_, flags};
    }
    advance(next_used_, chain.slots_);
    used_since_signal_ += chain.slots_;
    slots_out_ -= chain.slots_;
    --in_flight_;
    keep_spare(std::move(chain.buffers_));
    std::move(chain).abandon();
}

void PackedQueue::publish() {
    if (staged_) {
        // release: everything of the batch becomes visible first.
        descriptors_.store16(kDescriptor * staged_->at.index + kFlags, staged_->flags,
                             std::memory_order_release);
        staged_.reset();
    }
}

void PackedQueue::unpop(DescriptorChain chain) {
    const bool crosses = next_available_.index < chain.slots_;
    next_available_.index =
        static_cast<std::uint16_t>(next_available_.index + (crosses ? size_ : 0) - chain.slots_);
    next_available_.wrap = crosses ? !next_available_.wrap : next_available_.wrap;
    slots_out_ -= chain.slots_;
    --in_flight_;
    keep_spare(std::move(chain.buffers_));
    std::move(chain).abandon();
}

bool PackedQueue::should_interrupt() {
    const unsigned used = std::exchange(used_since_signal_, 0);
    if (used == 0) {
        return false;
    }
    // seq_cst: our descriptors must be visible before we look what the driver wants; the driver
    // does the opposite.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const std::uint16_t flags = driver_event_.load16(kEventFlags) & 3;
    if (flags != kEventAtPosition || !event_index_) {
        return flags == kEventEnable;
    }
    // How many places ago did we pass the position that the driver waits for?
    const std::uint16_t position = driver_event_.load16(kEventPosition);
    const bool same_round = ((position >> 15) != 0) == next_used_.wrap;
    const int passed = next_used_.index + (same_round ? 0 : size_) - (position & 0x7fff);
    return passed >= 1 && static_cast<unsigned>(passed) <= used;
}

bool PackedQueue::enable_notifications() {
    if (event_index_) {
        const auto wrap = static_cast<std::uint16_t>(next_available_.wrap ? 1U << 15 : 0);
        device_event_.store16(kEventPosition,
                              static_cast<std::uint16_t>(next_available_.index | wrap));
        device_event_.store16(kEventFlags, kEventAtPosition, std::memory_order_release);
    } else {
        device_event_.store16(kEventFlags, kEventEnable);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return slots_out_ < size_ && available(next_available_);
}

void PackedQueue::disable_notifications() {
    device_event_.store16(kEventFlags, kEventDisable);
}

void PackedQueue::save(state::StateWriter& writer, const Position& position) {
    writer.u16(position.index);
    writer.boolean(position.wrap);
}

void PackedQueue::load(state::StateReader& reader, Position& position) const {
    position.index = reader.u16();
    position.wrap = reader.boolean();
    if (position.index >= size_) {
        reader.reject("a ring position is outside its ring");
        position.index = 0;
    }
}

void PackedQueue::save(state::StateWriter& writer) const {
    save(writer, next_available_);
    save(writer, next_used_);
    writer.u32(used_since_signal_);
}

void PackedQueue::load(state::StateReader& reader) {
    load(reader, next_available_);
    load(reader, next_used_);
    used_since_signal_ = std::min<std::uint32_t>(reader.u32(), size_);
}

}  // namespace strata::virtio
