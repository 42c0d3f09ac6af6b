// SplitQueue: the split ring. VIRTIO 1.2, 2.7.
#pragma once

#include "virtio/core/ring_memory.h"
#include "virtio/core/virtqueue.h"

namespace strata::virtio {

class SplitQueue final : public Virtqueue {
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
    SplitQueue(const memory::GuestMemory& memory, std::uint16_t size, std::uint64_t features)
        : memory_(memory),
          size_(size),
          event_index_((features & Feature::kEventIndex) != 0),
          indirect_((features & Feature::kIndirect) != 0) {}
    Result<> collect(std::uint16_t head, std::vector<DescriptorChain::Buffer>& buffers,
                     std::size_t& first_writable) const;
    Result<> collect_indirect(const Descriptor& table,
                              std::vector<DescriptorChain::Buffer>& buffers,
                              std::size_t& first_writable) const;
    // Layouts: available ring: flags, idx, ring[size], used_event. Used ring: flags, idx,
    // elements[size], avail_event.
    [[nodiscard]] std::size_t used_event_offset() const { return 4 + 2 * std::size_t{size_}; }
    [[nodiscard]] std::size_t avail_event_offset() const { return 4 + 8 * std::size_t{size_}; }

    const memory::GuestMemory& memory_;
    const std::uint16_t size_;
    const bool event_index_;
    const bool indirect_;
    RingMemory descriptors_;
    RingMemory available_;
    RingMemory used_;
    std::uint16_t next_available_ = 0;
    std::uint16_t next_used_ = 0;
    std::uint16_t signalled_used_ = 0;  ///< next_used_ at the last should_interrupt()
};

}  // namespace strata::virtio
