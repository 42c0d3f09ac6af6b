// Bitmap directory: the persistent dirty bitmaps that a qcow2 image names, checked: whatever was
// parsed is safe to compute with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/formats/qcow2/header.h"

namespace strata::block::qcow2 {

inline constexpr std::uint32_t kBitmapInUse = 1, kBitmapAuto = 2, kBitmapExtraCompatible = 4;
inline constexpr std::size_t kMaxBitmaps = 65535, kMaxBitmapName = 1023;
inline constexpr unsigned kMinGranularityBits = 9, kMaxGranularityBits = 31;
/// Bytes of bits that one bitmap may have.
inline constexpr std::uint64_t kMaxBitmapBytes = 512ULL << 20;

/// The header extension that names the directory.
struct BitmapExtension {
    std::uint32_t bitmaps = 0;
    std::uint64_t directory_bytes = 0, directory_offset = 0;
};

/// One entry of the directory.
struct StoredBitmap {
    std::string name;
    std::uint64_t table_offset = 0;
    std::uint32_t table_entries = 0;
    std::uint32_t flags = 0;
    unsigned granularity_bits = 16;
    std::vector<std::byte>
        extra;  ///< as it is; without kBitmapExtraCompatible the bitmap cannot be used
    std::uint64_t flags_place = 0;  ///< of the flags, from the directory's start
    [[nodiscard]] bool usable() const {
        return (flags & kBitmapInUse) == 0 &&
               (extra.empty() || (flags & kBitmapExtraCompatible) != 0);
    }
};

/// Bytes of bits for a disk of `size`.
std::uint64_t bitmap_bytes(std::uint64_t size, unsigned granularity_bits);

Result<BitmapExtension> parse_bitmap_extension(std::span<const std::byte> content,
                                               std::string_view image);
std::vector<std::byte> serialise_bitmap_extension(const BitmapExtension& extension);

Result<std::vector<StoredBitmap>> parse_bitmap_directory(std::span<const std::byte> bytes,
                                                         std::uint32_t count, const Header& header,
                                                         std::string_view image);
std::vector<std::byte> serialise_bitmap_directory(const std::vector<StoredBitmap>& bitmaps);

}  // namespace strata::block::qcow2
