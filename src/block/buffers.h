// Buffers: a view of memory in pieces (an iovec list): what a read fills and a write takes. Nothing
// is copied.
//
// The memory and the iovec array stay valid and in place until the request that was given the view
// has ended. A view of one piece carries it along and needs no array. A write does not change the
// memory, though the type lets it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <sys/uio.h>

namespace strata::block {

class Buffers {
  public:
    Buffers() = default;
    /// One piece, to read into.
    explicit Buffers(std::span<std::byte> piece)
        : single_{piece.data(), piece.size()}, length_(piece.size()) {}
    /// One piece, to write from.
    static Buffers of(std::span<const std::byte> piece) {
        // SAFETY: a write never stores through the view.
        return Buffers(std::span(const_cast<std::byte*>(piece.data()), piece.size()));
    }
    /// All of `pieces`.
    explicit Buffers(std::span<const iovec> pieces);

    [[nodiscard]] std::size_t size() const { return length_; }
    [[nodiscard]] bool empty() const { return length_ == 0; }
    /// Part of it; the range must lie inside.
    [[nodiscard]] Buffers slice(std::size_t offset, std::size_t length) const;
    [[nodiscard]] Buffers from(std::size_t offset) const { return slice(offset, length_ - offset); }

    /// Appends the pieces, trimmed, for a system call.
    void append_to(std::vector<iovec>& out) const;
    /// The only piece, if there is just one.
    [[nodiscard]] bool contiguous(std::span<std::byte>& piece) const;
    void fill(std::byte value) const;
    /// Copies size() bytes out of or into `bytes`, which has at least as many.
    void copy_to(std::span<std::byte> bytes) const;
    void copy_from(std::span<const std::byte> bytes) const;
    /// Nothing but zero bytes.
    [[nodiscard]] bool is_zero() const;
    /// Every address and length is a multiple of `alignment` (a power of two).
    [[nodiscard]] bool aligned(std::size_t alignment) const;

  private:
    /// Calls `visit(span)` for each trimmed piece until it returns false.
    template <typename Visit>
    void each(Visit visit) const {
        std::size_t skip = skip_, left = length_;
        const iovec* piece = pieces_ != nullptr ? pieces_ : &single_;
        for (; left != 0; ++piece) {
            const std::size_t part = piece->iov_len - skip < left ? piece->iov_len - skip : left;
            if (part != 0 &&
                !visit(std::span(static_cast<std::byte*>(piece->iov_base) + skip, part))) {
                return;
            }
            left -= part;
            skip = 0;
        }
    }
    const iovec* pieces_ = nullptr;  ///< null: single_
    iovec single_{};
    std::size_t skip_ = 0;  ///< bytes of the first piece before the view
    std::size_t length_ = 0;
};

/// Nothing but zero bytes.
[[nodiscard]] bool is_zero(std::span<const std::byte> bytes);

}  // namespace strata::block
