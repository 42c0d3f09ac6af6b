// Qcow2Header: where its parts lie in the first cluster, and the same header with other places.
#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "block/formats/qcow2/header.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kSector = 512;
constexpr std::size_t kVersionField = 4, kBackingField = 8, kLengthField = 100;
constexpr std::size_t kFields2 = 72, kFields3 = 112;  ///< bytes of fields, by version

template <typename Number>
Number field(std::span<const std::byte> bytes, std::size_t at) {
    Number value{};
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

struct Name {
    std::uint64_t offset = 0, length = 0;  ///< an offset of 0: there is none
};

Name name_of(std::span<const std::byte> bytes) {
    const std::uint64_t offset = field<Be64>(bytes, kBackingField);
    const std::uint64_t length = field<Be32>(bytes, kBackingField + 8);
    return offset == 0 || offset > bytes.size() || length > bytes.size() - offset
               ? Name{}
               : Name{offset, length};
}

std::size_t extensions_begin(std::span<const std::byte> bytes) {
    return header_version(bytes) < 3
               ? kFields2
               : std::min<std::size_t>(field<Be32>(bytes, kLengthField), bytes.size());
}

/// Behind the end marker.
std::size_t extensions_end(std::span<const std::byte> bytes) {
    const Name name = name_of(bytes);
    std::size_t at = extensions_begin(bytes);
    const std::size_t limit = name.offset > at ? name.offset : bytes.size();
    while (at + 8 <= limit) {
        const std::uint32_t type = field<Be32>(bytes, at);
        const std::uint64_t length = field<Be32>(bytes, at + 4);
        if (type == 0) {
            return at + 8;
        }
        at = std::min<std::uint64_t>(limit, at + 8 + (length + 7) / 8 * 8);
    }
    return limit;
}

template <typename Number>
void put(std::vector<std::byte>& bytes, std::size_t at, Number value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

}  // namespace

std::uint32_t header_version(std::span<const std::byte> bytes) {
    return field<Be32>(bytes, kVersionField);
}

std::size_t header_end(std::span<const std::byte> bytes) {
    const Name name = name_of(bytes);
    return std::max<std::size_t>(extensions_end(bytes), name.offset + name.length);
}

std::optional<std::vector<std::byte>> move_header(std::span<const std::byte> bytes,
                                                  std::size_t to) {
    const bool fixed = header_version(bytes) < 3;
    const std::size_t begin = extensions_begin(bytes), end = extensions_end(bytes);
    const Name name = name_of(bytes);
    const std::size_t stays = fixed ? end : std::min(begin, kFields3);
    const std::size_t moves = fixed ? 0 : end - begin;
    if (bytes.size() < kSector || stays > kSector || begin > end || to > bytes.size() ||
        moves + name.length > bytes.size() - to) {
        return std::nullopt;
    }
    std::vector<std::byte> out(bytes.size());
    std::copy_n(bytes.begin(), stays, out.begin());
    const auto target = out.begin() + static_cast<std::ptrdiff_t>(to);
    if (!fixed) {
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(begin), moves, target);
        put(out, kLengthField, Be32(static_cast<std::uint32_t>(to)));
    }
    if (name.offset != 0) {
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(name.offset), name.length,
                    target + static_cast<std::ptrdiff_t>(moves));
        put(out, kBackingField, Be64(to + moves));
    }
    return out;
}

}  // namespace strata::block::qcow2
