// DescriptorChain: walking the buffers.
#include "virtio/core/descriptor_chain.h"

#include <algorithm>

namespace strata::virtio {

DescriptorChain::DescriptorChain(const memory::GuestMemory& memory, std::uint16_t head,
                                 std::uint16_t slots, std::vector<Buffer> buffers,
                                 std::size_t first_writable)
    : memory_(&memory),
      head_(head),
      slots_(slots),
      buffers_(std::move(buffers)),
      first_writable_(first_writable) {
    for (std::size_t at = 0; at < buffers_.size(); ++at) {
        (at < first_writable_ ? readable_ : writable_) += buffers_[at].length;
    }
}

DescriptorChain::DescriptorChain(DescriptorChain&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      head_(other.head_),
      slots_(other.slots_),
      buffers_(std::move(other.buffers_)),
      first_writable_(other.first_writable_),
      readable_(other.readable_),
      writable_(other.writable_) {}

DescriptorChain& DescriptorChain::operator=(DescriptorChain&& other) noexcept {
    if (this != &other) {
        STRATA_CHECK(memory_ == nullptr,
                     "a descriptor chain was overwritten before it was given back");
        memory_ = std::exchange(other.memory_, nullptr);
        head_ = other.head_;
        slots_ = other.slots_;
        buffers_ = std::move(other.buffers_);
        first_writable_ = other.first_writable_;
        readable_ = other.readable_;
        writable_ = other.writable_;
    }
    return *this;
}

DescriptorChain::~DescriptorChain() {
    STRATA_CHECK(memory_ == nullptr, "a descriptor chain was never given back");
}

template <typename Visit>
Result<> DescriptorChain::walk(memory::Access access, std::uint64_t offset, std::uint64_t length,
                               Visit visit) const {
    const bool reading = access == memory::Access::Read;
    const std::uint64_t total = reading ? readable_ : writable_;
    if (offset > total || length > total - offset) {
        return Error{ErrorKind::Failed, "the guest's buffers are too short"};
    }
    const std::size_t end = reading ? first_writable_ : buffers_.size();
    for (std::size_t at = reading ? 0 : first_writable_; at < end && length > 0; ++at) {
        const Buffer& buffer = buffers_[at];
        if (offset >= buffer.length) {
            offset -= buffer.length;
            continue;
        }
        const std::uint64_t part = std::min<std::uint64_t>(buffer.length - offset, length);
        const auto address = buffer.address.checked_add(offset);
        if (!address) {
            return Error{ErrorKind::Failed, "a guest buffer ends past the address space"};
        }
        STRATA_TRY_VOID(visit(*address, part));
        offset = 0;
        length -= part;
    }
    return ok();
}

Result<> DescriptorChain::read(std::uint64_t offset, std::span<std::byte> out) const {
    return walk(memory::Access::Read, offset, out.size(),
                [&](memory::GuestAddress address, std::uint64_t part) -> Result<> {
                    STRATA_TRY_VOID(memory_->read(address, out.first(part)));
                    out = out.subspan(part);
                    return ok();
                });
}

Result<> DescriptorChain::write(std::uint64_t offset, std::span<const std::byte> data) const {
    return walk(memory::Access::Write, offset, data.size(),
                [&](memory::GuestAddress address, std::uint64_t part) -> Result<> {
                    STRATA_TRY_VOID(memory_->write(address, data.first(part)));
                    data = data.subspan(part);
                    return ok();
                });
}

Result<> DescriptorChain::slices(memory::Access access, std::uint64_t offset, std::uint64_t length,
                                 std::vector<memory::GuestSlices>& out) const {
    return walk(access, offset, length,
                [&](memory::GuestAddress address, std::uint64_t part) -> Result<> {
                    out.push_back(STRATA_TRY(memory_->slices(address, part, access)));
                    return ok();
                });
}

}  // namespace strata::virtio
