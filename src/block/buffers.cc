// Buffers: walking the pieces.
#include "block/buffers.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace strata::block {

Buffers::Buffers(std::span<const iovec> pieces) : pieces_(pieces.data()) {
    for (const iovec& piece : pieces) {
        length_ += piece.iov_len;
    }
}

Buffers Buffers::slice(std::size_t offset, std::size_t length) const {
    STRATA_CHECK(offset <= length_ && length <= length_ - offset,
                 "a slice reaches past its buffers");
    Buffers part = *this;
    part.length_ = length;
    part.skip_ = skip_ + offset;
    if (part.pieces_ != nullptr) {
        while (length != 0 && part.skip_ >= part.pieces_->iov_len) {
            part.skip_ -= part.pieces_->iov_len;
            ++part.pieces_;
        }
    }
    return part;
}

void Buffers::append_to(std::vector<iovec>& out) const {
    each([&](std::span<std::byte> piece) {
        out.push_back({piece.data(), piece.size()});
        return true;
    });
}

bool Buffers::contiguous(std::span<std::byte>& out) const {
    unsigned count = 0;
    each([&](std::span<std::byte> piece) {
        out = piece;
        return ++count < 2;
    });
    return count == 1;
}

void Buffers::fill(std::byte value) const {
    each([&](std::span<std::byte> piece) {
        std::memset(piece.data(), static_cast<int>(value), piece.size());
        return true;
    });
}

void Buffers::copy_to(std::span<std::byte> bytes) const {
    STRATA_CHECK(bytes.size() >= length_, "the copy of buffers does not fit");
    std::byte* to = bytes.data();
    each([&](std::span<std::byte> piece) {
        std::memcpy(to, piece.data(), piece.size());
        to += piece.size();
        return true;
    });
}

void Buffers::copy_from(std::span<const std::byte> bytes) const {
    STRATA_CHECK(bytes.size() >= length_, "the source does not fill the buffers");
    const std::byte* from = bytes.data();
    each([&](std::span<std::byte> piece) {
        std::memcpy(piece.data(), from, piece.size());
        from += piece.size();
        return true;
    });
}

bool Buffers::is_zero() const {
    bool zero = true;
    each([&](std::span<std::byte> piece) { return zero = block::is_zero(piece); });
    return zero;
}

bool Buffers::aligned(std::size_t alignment) const {
    bool fits = true;
    each([&](std::span<std::byte> piece) {
        // SAFETY: only the address's value is looked at.
        return fits =
                   (reinterpret_cast<std::uintptr_t>(piece.data()) | piece.size()) % alignment == 0;
    });
    return fits;
}

bool is_zero(std::span<const std::byte> bytes) {
    // The first bytes tell most data apart; the rest is compared with itself, shifted: memcmp is as
    // fast as it gets.
    constexpr std::size_t kHead = 16;
    const std::size_t head = std::min(bytes.size(), kHead);
    for (std::size_t i = 0; i < head; ++i) {
        if (bytes[i] != std::byte{0}) {
            return false;
        }
    }
    return bytes.size() <= kHead ||
           std::memcmp(bytes.data(), bytes.data() + kHead, bytes.size() - kHead) == 0;
}

}  // namespace strata::block
