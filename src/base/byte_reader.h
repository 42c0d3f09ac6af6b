// ByteReader: bounds-checked reading of a byte buffer that somebody else made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "base/result.h"

namespace strata {

/// Walks a buffer; each read is checked against its end and answers an Error (Failed, "truncated
/// …") past it.
class ByteReader {
  public:
    explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    [[nodiscard]] std::size_t offset() const { return offset_; }
    [[nodiscard]] std::size_t remaining() const { return bytes_.size() - offset_; }

    /// Copies the next sizeof(T) bytes into a T (a wire structure or an Le/Be integer).
    template <typename T>
    requires std::is_trivially_copyable_v<T> Result<T> read() {
        if (remaining() < sizeof(T)) {
            return truncated(sizeof(T));
        }
        T value{};
        std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
        offset_ += sizeof(T);
        return value;
    }

    /// Reads a T at `offset` without moving.
    template <typename T>
    requires std::is_trivially_copyable_v<T> Result<T> read_at(std::size_t offset)
    const {
        ByteReader at(bytes_);
        STRATA_TRY_VOID(at.skip(offset));
        return at.read<T>();
    }

    /// The next `size` bytes, borrowed from the buffer.
    Result<std::span<const std::byte>> take(std::size_t size) {
        if (remaining() < size) {
            return truncated(size);
        }
        auto part = bytes_.subspan(offset_, size);
        offset_ += size;
        return part;
    }

    Result<> skip(std::size_t size) {
        if (remaining() < size) {
            return truncated(size);
        }
        offset_ += size;
        return ok();
    }

  private:
    [[nodiscard]] Error truncated(std::size_t wanted) const;

    std::span<const std::byte> bytes_;
    std::size_t offset_ = 0;
};

}  // namespace strata
