// XvaSums: checksums of blocks, as exports have them beside each.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace strata::block::xva {

enum class SumKind : std::uint8_t { Sha1, Xxh64 };

struct SumStyle {
    SumKind kind;
    std::string_view name;    ///< as an option
    std::string_view ending;  ///< of the member that has it
    std::size_t digits;
};
inline constexpr std::array<SumStyle, 2> kSumStyles{{
    {SumKind::Sha1, "sha1", ".checksum", 40},   ///< in lower case, and read by every version
    {SumKind::Xxh64, "xxhash", ".xxhash", 16},  ///< in upper case, since XenServer 8
}};
[[nodiscard]] constexpr const SumStyle& style_of(SumKind kind) {
    return kSumStyles[static_cast<std::size_t>(kind)];
}

/// The sum as it is written.
std::string sum_of(SumKind kind, std::span<const std::byte> block);

}  // namespace strata::block::xva
