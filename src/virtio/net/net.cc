// NetDevice: both directions and the control queue.
#include "virtio/net/net.h"

#include <algorithm>

namespace strata::virtio {

using net_wire::Control;
using net_wire::Features;
using net_wire::Header;
using net_wire::HeaderFlags;

bool fill_checksum(std::span<std::byte> frame, std::size_t start, std::size_t offset) {
    if (start >= frame.size() || offset > frame.size() || frame.size() - offset < 2 ||
        start > frame.size() - offset - 2) {
        return false;
    }
    std::uint64_t sum = 0;
    for (std::size_t at = start; at < frame.size(); at += 2) {
        const unsigned low = at + 1 < frame.size() ? std::to_integer<unsigned>(frame[at + 1]) : 0;
        sum += std::to_integer<unsigned>(frame[at]) << 8 | low;
    }
    while ((sum >> 16) != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    auto checksum = static_cast<std::uint16_t>(~sum);
    checksum =
        checksum == 0 ? 0xffff : checksum;  // UDP: zero would mean "none"; for TCP both are zero
    const Be16 wire(checksum);
    std::memcpy(frame.data() + start + offset, &wire, sizeof(wire));
    return true;
}

NetDevice::NetDevice(const NetDeviceConfig& config, std::unique_ptr<net::NetBackend> backend,
                     io::EventLoop& loop)
    : QueuedDevice(config.label, {config.queue_size, config.queue_size, 64}, loop),
      backend_(std::move(backend)),
      mac_(config.mac) {
    backend_->attach([this] { wake(kReceive); });
}

NetDevice::~NetDevice() {
    backend_->attach({});
}

std::uint64_t NetDevice::offered_features() const {
    return kRingFeatures | Features::kChecksum | Features::kMac | Features::kMergeReceive |
           Features::kStatus | Features::kControl | Features::kControlReceive |
           Features::kControlMac | (backend_->checksums_good() ? Features::kGuestChecksum : 0);
}

void NetDevice::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const MutexLock lock(mutex_);
    net_wire::Config config{};
    std::copy(mac_.begin(), mac_.end(), config.mac);
    config.status = std::uint16_t{link_ ? std::uint16_t{1} : std::uint16_t{0}};
    config.max_virtqueue_pairs = std::uint16_t{1};
    copy_config(std::as_bytes(std::span(&config, 1)), offset, data);
}

void NetDevice::set_link(bool up) {
    const MutexLock lock(mutex_);
    if (link_ != up) {
        link_ = up;
        config_changed();
        wake(kReceive);
    }
}

Result<> NetDevice::serve(unsigned index) {
    return index == kReceive ? receive() : QueuedDevice::serve(index);
}

Result<> NetDevice::serve_chain(unsigned index, DescriptorChain chain) {
    return index == kTransmit ? transmit(std::move(chain)) : control(std::move(chain));
}

// --- To the guest ---

Result<> NetDevice::receive() {
    Virtqueue& ring = *queue(kReceive);
    ring.disable_notifications();
    for (unsigned count = 0; count < kBatch; ++count) {
        const auto frame = backend_->peek();
        if (!frame) {
            signal(kReceive);
            return ok();  // the backend wakes us
        }
        auto delivered = link_ ? deliver(*frame) : Result<bool>(true);
        drop_taken();
        if (!STRATA_TRY(std::move(delivered))) {
            signal(kReceive);
            return ok();  // the driver wakes us when it has given more buffers
        }
        backend_->pop();
    }
    signal(kReceive);
    wake(kReceive);
    return ok();
}

Result<bool> NetDevice::deliver(std::span<const std::byte> frame) {
    Virtqueue& ring = *queue(kReceive);
    const bool merge = (features() & Features::kMergeReceive) != 0;
    const std::uint64_t wanted = sizeof(Header) + frame.size();
    std::uint64_t room = 0;
    while (room < wanted) {
        auto chain = STRATA_TRY(ring.pop());
        if (!chain) {
            // Before the chains go back: the driver is to notify about more than these.
            if (ring.enable_notifications()) {
                ring.disable_notifications();
                continue;
            }
            while (!taken_.empty()) {
                ring.unpop(std::move(taken_.back()));
                taken_.pop_back();
            }
            return false;
        }
        const std::uint64_t part = chain->writable();
        taken_.push_back(std::move(*chain));
        if (part < sizeof(Header)) {
            return Error{ErrorKind::Failed, "a receive buffer is smaller than its header"};
        }
        room += part;
        if (!merge && room < wanted) {
            // VIRTIO 1.2, 5.1.6.3.1 asks the driver for larger buffers: this frame cannot be
            // delivered.
            ring.unpop(std::move(taken_.back()));
            taken_.pop_back();
            return true;
        }
    }
    STRATA_TRY_VOID(fill(frame, taken_.size()));
    return true;
}

Result<> NetDevice::fill(std::span<const std::byte> frame, std::size_t chains) {
    Virtqueue& ring = *queue(kReceive);
    Header header{};
    header.buffers = static_cast<std::uint16_t>(chains);
    if ((features() & Features::kGuestChecksum) != 0) {
        header.flags = HeaderFlags::kDataValid;
    }
    STRATA_TRY_VOID(taken_.front().store(0, header));
    std::size_t offset = sizeof(Header);
    for (DescriptorChain& chain : taken_) {
        const std::size_t part = std::min<std::uint64_t>(frame.size(), chain.writable() - offset);
        STRATA_TRY_VOID(chain.write(offset, frame.first(part)));
        frame = frame.subspan(part);
        ring.stage(std::move(chain), static_cast<std::uint32_t>(offset + part));
        offset = 0;
    }
    taken_.clear();
    ring.publish();  // at once: the driver must find all buffers of a frame
    return ok();
}

/// After an error: the queue is done for until its reset.
void NetDevice::drop_taken() {
    for (DescriptorChain& chain : taken_) {
        std::move(chain).abandon();
    }
    taken_.clear();
}

// --- From the guest ---

Result<> NetDevice::transmit(DescriptorChain chain) {
    const auto header = chain.load<Header>(0);
    if (!header.ok()) {
        std::move(chain).abandon();
        return Error{ErrorKind::Failed, "a frame to send has no header"};
    }
    const std::uint64_t length = chain.readable() - sizeof(Header);
    if (length >= net::kMinFrame && length <= net::kMaxFrame && link_) {
        frame_.resize(length);
        bool good = chain.read(sizeof(Header), frame_).ok();
        if (good && (header->flags & HeaderFlags::kNeedsChecksum) != 0) {
            good = fill_checksum(frame_, header->checksum_start, header->checksum_offset);
        }
        if (good && header->gso_type == 0) {  // no segmentation was offered
            backend_->send(frame_);
        }
    }
    queue(kTransmit)->push(std::move(chain), 0);
    return ok();
}

Result<> NetDevice::control(DescriptorChain chain) {
    if (chain.writable() < 1) {
        std::move(chain).abandon();
        return Error{ErrorKind::Failed, "a control command has no place for its answer"};
    }
    const std::uint8_t answer = execute(chain);
    if (const auto stored = chain.store(0, answer); !stored.ok()) {
        std::move(chain).abandon();
        return stored.error();
    }
    queue(kControl)->push(std::move(chain), 1);
    return ok();
}

std::uint8_t NetDevice::execute(const DescriptorChain& chain) {
    const auto command = chain.load<std::array<std::uint8_t, 2>>(0);
    if (!command.ok()) {
        return Control::kError;
    }
    const auto [type, number] = *command;
    if (type == Control::kClassReceive && number <= Control::kLastReceive) {
        return chain.readable() == 3 ? Control::kOk : Control::kError;
    }
    if (type == Control::kClassMac && number == Control::kMacTableSet) {
        // Two tables of a 32-bit count and addresses: checked, though nothing is filtered.
        std::uint64_t at = 2;
        for (int table = 0; table < 2; ++table) {
            const auto count = chain.load<Le32>(at);
            if (!count.ok() || chain.readable() - at - sizeof(Le32) < 6ULL * *count) {
                return Control::kError;
            }
            at += sizeof(Le32) + 6ULL * *count;
        }
        return Control::kOk;
    }
    if (type == Control::kClassMac && number == Control::kMacAddressSet && chain.readable() == 8) {
        const auto mac = chain.load<MacAddress>(2);
        if (mac.ok()) {
            mac_ = *mac;
            return Control::kOk;
        }
    }
    return Control::kError;
}

void NetDevice::save_device(state::StateWriter& writer) const {
    writer.raw(std::as_bytes(std::span(mac_)));
    writer.boolean(link_);
}

void NetDevice::load_device(state::StateReader& reader) {
    reader.raw(std::as_writable_bytes(std::span(mac_)));
    link_ = reader.boolean();
}

}  // namespace strata::virtio
