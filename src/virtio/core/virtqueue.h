// Virtqueue: the device's end of one ring shared with the driver. VIRTIO 1.2, 2.6 to 2.8.
//
// pop() takes a chain of buffers, push() gives it back used. Everything read from the ring is
// copied once and checked; a driver that breaks the rules makes pop() fail, after which the device
// must ask for a reset. Ring memory is looked up once, at creation. At most `size` chains are out
// at a time, whatever the driver publishes. Threads: used under the lock of its device; the driver
// works on the other end at the same time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "state/state_stream.h"
#include "virtio/core/descriptor_chain.h"
#include "virtio/core/wire.h"

namespace strata::virtio {

/// What the driver told the transport about a queue.
struct QueueSetup {
    std::uint16_t size = 0;
    memory::GuestAddress descriptors;
    memory::GuestAddress driver;  ///< split: available ring; packed: driver event suppression
    memory::GuestAddress device;  ///< split: used ring; packed: device event suppression
};

class Virtqueue {
  public:
    static constexpr std::uint16_t kMaxSize = 1024;
    /// The longest chain that an indirect table may describe, whatever the queue's size.
    static constexpr std::size_t kMaxChain = 1024;

    virtual ~Virtqueue() = default;

    /// The next chain, nullopt if the driver has published none. An Error: the driver broke the
    /// rules.
    virtual Result<std::optional<DescriptorChain>> pop() = 0;
    /// Gives `chain` back with `written` bytes of its writable part filled.
    void push(DescriptorChain chain, std::uint32_t written) {
        stage(std::move(chain), written);
        publish();
    }
    /// push() in two steps, for buffers that the driver must see at once: any number of stage(),
    /// then publish().
    virtual void stage(DescriptorChain chain, std::uint32_t written) = 0;
    virtual void publish() = 0;
    /// Gives the most recently popped chain back unseen: the next pop() finds it again.
    virtual void unpop(DescriptorChain chain) = 0;
    /// True if the driver wants an interrupt for what was pushed since the last call.
    virtual bool should_interrupt() = 0;
    /// Asks the driver to notify us. True if there are chains already, about which no notification
    /// will come.
    virtual bool enable_notifications() = 0;
    virtual void disable_notifications() = 0;

    /// Chains popped and not given back.
    [[nodiscard]] unsigned in_flight() const { return in_flight_; }

    /// Positions in the ring, inside a section of the caller. Only while no chain is out.
    virtual void save(state::StateWriter& writer) const = 0;
    virtual void load(state::StateReader& reader) = 0;

  protected:
    /// Checks and appends the buffers of an indirect table. `first_writable` counts the readable
    /// ones.
    Result<> append_buffer(std::uint64_t address, std::uint32_t length, bool writable,
                           std::vector<DescriptorChain::Buffer>& buffers,
                           std::size_t& first_writable) const;
    [[nodiscard]] std::vector<DescriptorChain::Buffer> take_spare();
    void keep_spare(std::vector<DescriptorChain::Buffer> buffers);

    unsigned in_flight_ = 0;

  private:
    std::vector<std::vector<DescriptorChain::Buffer>>
        spares_;  ///< buffer lists of finished chains, to save allocations
};

/// Makes the queue that `features` ask for. Failed: `setup` is not what VIRTIO allows, or not in
/// RAM.
Result<std::unique_ptr<Virtqueue>> make_virtqueue(const memory::GuestMemory& memory,
                                                  const QueueSetup& setup, std::uint64_t features);

}  // namespace strata::virtio
