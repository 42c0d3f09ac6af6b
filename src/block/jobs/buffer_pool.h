// BufferPool: memory that a job's requests use in turn: aligned for transfers without the host's
// cache, and the last one used is the first one given.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>
#include <vector>

#include "block/aligned_buffer.h"

namespace strata::block {

class BufferPool {
  public:
    /// A buffer of `bytes` at least, with whatever was in it; it goes back by itself.
    class [[nodiscard]] Lease {
      public:
        Lease(BufferPool* pool, AlignedBuffer buffer, std::size_t length)
            : pool_(pool), buffer_(std::move(buffer)), length_(length) {}
        Lease(Lease&& other) noexcept
            : pool_(std::exchange(other.pool_, nullptr)),
              buffer_(std::move(other.buffer_)),
              length_(other.length_) {}
        Lease& operator=(Lease&&) = delete;
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        ~Lease() {
            if (pool_ != nullptr) {
                pool_->free_.push_back(std::move(buffer_));
            }
        }
        [[nodiscard]] std::span<std::byte> bytes() const { return buffer_.bytes().first(length_); }

      private:
        BufferPool* pool_;
        AlignedBuffer buffer_;
        std::size_t length_;
    };
    Lease take(std::size_t bytes) {
        const std::size_t rounded = std::bit_ceil(std::max(bytes, kLeast));
        for (std::size_t i = free_.size(); i-- != 0;) {
            if (free_[i].size() == rounded) {
                std::swap(free_[i], free_.back());
                AlignedBuffer buffer = std::move(free_.back());
                free_.pop_back();
                return {this, std::move(buffer), bytes};
            }
        }
        return {this, AlignedBuffer(rounded), bytes};
    }

  private:
    static constexpr std::size_t kLeast = 1U << 16;
    std::vector<AlignedBuffer> free_;
};

}  // namespace strata::block
