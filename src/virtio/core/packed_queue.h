// PackedQueue: the packed ring. VIRTIO 1.2, 2.8.
//
// One ring of descriptors that both sides rewrite; a descriptor's AVAIL and USED bits, compared
// with a wrap counter that flips at each round, say whose it is. A chain lies in consecutive places
// and is given back in one of them.
#pragma once

#include "virtio/core/ring_memory.h"
#include "virtio/core/virtqueue.h"

namespace strata::virtio {

class PackedQueue final : public Virtqueue {
  public:
    static Result<std::unique_ptr<Virtqueue>> create(const memory::GuestMemory& memory,
                                                     const QueueSetup& setup,
                                                     std::uint64_t features);

    Result<std::optional<DescriptorChain>> pop() override;
    void stage(DescriptorChain chain, std::uint32_t written) override;
    void publish() override;
    void unpop(DescriptorChain chain) override;
    bool should_interrupt() override;
    bool enable_notifications() override;
    void disable_notifications() override;
    void save(state::StateWriter& writer) const override;
    void load(state::StateReader& reader) override;

  private:
    /// A place in the ring and the round it belongs to.
    struct Position {
        std::uint16_t index = 0;
        bool wrap = true;
    };
    PackedQueue(const memory::GuestMemory& memory, std::uint16_t size, std::uint64_t features)
        : memory_(memory),
          size_(size),
          event_index_((features & Feature::kEventIndex) != 0),
          indirect_((features & Feature::kIndirect) != 0) {}
    void advance(Position& position, unsigned places) const;
    [[nodiscard]] bool available(const Position& position) const;
    Result<> collect_indirect(std::uint64_t address, std::uint32_t length,
                              std::vector<DescriptorChain::Buffer>& buffers,
                              std::size_t& first_writable) const;
    static void save(state::StateWriter& writer, const Position& position);
    void load(state::StateReader& reader, Position& position) const;

    const memory::GuestMemory& memory_;
    const std::uint16_t size_;
    const bool event_index_;
    const bool indirect_;
    RingMemory descriptors_;
    RingMemory driver_event_;
    RingMemory device_event_;
    Position next_available_;
    Position next_used_;
    unsigned slots_out_ = 0;          ///< places of the chains that are out
    unsigned used_since_signal_ = 0;  ///< places given back since should_interrupt()
    /// The first staged descriptor, whose flags are written last.
    struct Staged {
        Position at;
        std::uint16_t flags = 0;
    };
    std::optional<Staged> staged_;
};

}  // namespace strata::virtio
