// AlignedBuffer: memory of its own at a page's start, fit for O_DIRECT.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "block/buffers.h"

namespace strata::block {

class AlignedBuffer {
  public:
    static constexpr std::align_val_t kAlignment{4096};
    AlignedBuffer() = default;
    /// Not zeroed.
    explicit AlignedBuffer(std::size_t bytes)
        : data_(static_cast<std::byte*>(::operator new(bytes, kAlignment))), size_(bytes) {}
    [[nodiscard]] std::span<std::byte> bytes() const { return {data_.get(), size_}; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] Buffers view() const { return Buffers(bytes()); }

  private:
    struct Free {
        void operator()(std::byte* data) const { ::operator delete(data, kAlignment); }
    };
    std::unique_ptr<std::byte, Free> data_;
    std::size_t size_ = 0;
};

}  // namespace strata::block
