// AlignedBuffer: memory of its own at a page's start, fit for O_DIRECT.
//
// What a request fills and drops would come from the host anew each time, and be cleared by it: for
// a cluster that costs more than copying it. So each thread keeps the last few MiB that were
// dropped there.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "block/buffers.h"

namespace strata::block {

namespace detail {
struct FreeAligned {
    std::size_t bytes = 0;
    void operator()(std::byte* data) const noexcept;
};
std::byte* allocate_aligned(std::size_t bytes);
}  // namespace detail

class AlignedBuffer {
  public:
    static constexpr std::size_t kAlignment = 4096;
    AlignedBuffer() = default;
    /// Not zeroed: it has whatever was in it.
    explicit AlignedBuffer(std::size_t bytes)
        : data_(detail::allocate_aligned(bytes), detail::FreeAligned{bytes}), size_(bytes) {}
    [[nodiscard]] std::span<std::byte> bytes() const { return {data_.get(), size_}; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] Buffers view() const { return Buffers(bytes()); }

  private:
    std::unique_ptr<std::byte, detail::FreeAligned> data_;
    std::size_t size_ = 0;
};

}  // namespace strata::block
