// Input: what fuzz targets share: hands the bytes of a fuzz input out as numbers; zeros after the
// end.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace strata::fuzz {

/// True if all bytes are zero. Blocks, because sanitized loops over bytes are slow.
inline bool all_zero(std::span<const std::byte> bytes) {
    static constexpr std::array<std::byte, 4096> kZeros{};
    while (!bytes.empty()) {
        const auto part = bytes.first(std::min(bytes.size(), kZeros.size()));
        if (std::memcmp(part.data(), kZeros.data(), part.size()) != 0) {
            return false;
        }
        bytes = bytes.subspan(part.size());
    }
    return true;
}

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}
    [[nodiscard]] bool empty() const { return offset_ >= bytes_.size(); }
    /// `size` bytes (1 to 8), little-endian.
    std::uint64_t take(std::size_t size) {
        std::uint64_t value = 0;
        for (std::size_t index = 0; index < size; ++index) {
            value |= std::uint64_t{empty() ? std::uint8_t{0} : bytes_[offset_]} << (8 * index);
            ++offset_;
        }
        return value;
    }

  private:
    std::span<const std::uint8_t> bytes_;
    std::size_t offset_ = 0;
};

}  // namespace strata::fuzz
