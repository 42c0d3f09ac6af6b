// Wire helpers of the image formats: structures in and out of byte buffers, and the one sentence of
// a broken image.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace strata::block {

/// "FORMAT image 'NAME': WHAT" (Failed, EINVAL): an image that breaks its own format.
Error broken_image(std::string_view format, std::string_view name, std::string_view what);
/// The same, where QEMU's tools have a sentence of their own (wording.h).
Error broken_image(std::string_view format, std::string_view name, std::string_view what,
                   std::string theirs);
/// As above (NotSupported, ENOTSUP): a sound image that asks for what is not done here.
Error unsupported_image(std::string_view format, std::string_view name, std::string_view what);

/// Copies `value` over `out` at `offset`; the caller has sized `out`.
template <typename T>
requires std::is_trivially_copyable_v<T>
void put(std::span<std::byte> out, std::size_t offset, const T& value) {
    STRATA_CHECK(offset <= out.size() && sizeof(T) <= out.size() - offset,
                 "a structure beyond its buffer");
    std::memcpy(out.data() + offset, &value, sizeof value);
}
/// The T at `offset`; the caller knows that it lies inside.
template <typename T>
requires std::is_trivially_copyable_v<T>
[[nodiscard]] T get(std::span<const std::byte> from, std::size_t offset) {
    STRATA_CHECK(offset <= from.size() && sizeof(T) <= from.size() - offset,
                 "a structure beyond its buffer");
    T value;
    std::memcpy(&value, from.data() + offset, sizeof value);
    return value;
}

/// Characters up to the first NUL.
std::string text_until_nul(std::span<const std::byte> bytes);
/// UTF-8 of UTF-16 text in the byte order told, up to the first NUL; unpaired surrogates become
/// U+FFFD.
std::string utf8_of_utf16(std::span<const std::byte> bytes, bool big_endian);
/// UTF-16 in the byte order told; bytes that are no UTF-8 become U+FFFD.
std::vector<std::byte> utf16_of_utf8(std::string_view text, bool big_endian);

/// The Castagnoli CRC (RFC 3720) of `bytes`, continuing from `before`.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0);

[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}
[[nodiscard]] constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t unit) {
    return value / unit + (value % unit != 0 ? 1 : 0);
}
/// True if [offset, offset+length) lies below `end`, without overflow.
[[nodiscard]] constexpr bool lies_within(std::uint64_t offset, std::uint64_t length,
                                         std::uint64_t end) {
    return offset <= end && length <= end - offset;
}

/// A 16-byte identifier as it lies in the file.
using RawUuid = std::array<std::byte, 16>;
/// Random, version 4.
RawUuid random_uuid();
/// "xxxxxxxx-xxxx-…"; `mixed`: the first three fields little-endian, as Microsoft stores them.
std::string format_uuid(const RawUuid& uuid, bool mixed);

}  // namespace strata::block
