// VhdFooter, VhdHeader: the fixed structures of Virtual PC images (VHD), checked.
//
// A footer of 512 bytes ends every image; dynamic and differencing images carry a copy at 0 and
// behind it a header that points at the block table. All integers are big-endian, checksums are the
// complement of the sum of the bytes. Format: "Virtual Hard Disk Image Format Specification" 1.0
// (Microsoft, 2006).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/common/wire.h"

namespace strata::block::vhd {

inline constexpr std::size_t kFooterBytes = 512, kHeaderBytes = 1024;
inline constexpr std::uint32_t kUnallocated = 0xFFFFFFFF;
inline constexpr std::uint64_t kMaxSize = 2040ULL << 30;
inline constexpr std::uint64_t kMaxTableBytes = 64ULL << 20;  ///< 2040 GiB of 128 KiB blocks
inline constexpr std::uint32_t kDefaultBlock = 2U << 20;
/// 65535 cylinders of 16 heads and 255 sectors: what the geometry can say at most.
inline constexpr std::uint64_t kMaxGeometry = 65535ULL * 16 * 255 * 512;

enum class Type : std::uint32_t { Fixed = 2, Dynamic = 3, Differencing = 4 };

struct Geometry {
    std::uint16_t cylinders = 0;
    std::uint8_t heads = 0, sectors = 0;
    [[nodiscard]] std::uint64_t bytes() const {
        return std::uint64_t{cylinders} * heads * sectors * 512;
    }
};
/// The specification's geometry for a disk of `bytes`; it never covers more.
Geometry geometry_of(std::uint64_t bytes);

struct Footer {
    Type type = Type::Dynamic;
    std::string creator =
        "win ";  ///< four characters; these let every reader take current_size for the size
    std::uint32_t timestamp = 0;  ///< seconds since 2000
    std::uint64_t data_offset = ~0ULL;
    std::uint64_t current_size = 0;
    Geometry geometry;
    RawUuid uuid{};
    /// The disk's size: current_size of creators known to mean it (Hyper-V, Azure, Xen, QEMU with
    /// force_size), else the geometry's, which is what the others' guests see.
    [[nodiscard]] std::uint64_t disk_size() const;
};

/// Parses a footer (512 bytes). `name` is for messages.
Result<Footer> parse_footer(std::span<const std::byte> bytes, std::string_view name);
std::vector<std::byte> serialise_footer(const Footer& footer);
/// True if `bytes` begin with a footer's cookie: for probing.
bool is_footer(std::span<const std::byte> bytes);

struct Locator {
    std::uint32_t platform = 0;  ///< "W2ru", "W2ku", "MacX" … as a number
    std::uint32_t space = 0, length = 0;
    std::uint64_t offset = 0;
};
inline constexpr std::uint32_t kRelativeLocator = 0x57327275, kAbsoluteLocator = 0x57326B75,
                               kMacLocator = 0x4D616358;
inline constexpr std::uint32_t kMaxLocator = 64U << 10;

struct Header {
    std::uint64_t table_offset = 0;
    std::uint32_t entries = 0;
    std::uint32_t block = kDefaultBlock;
    RawUuid parent{};
    std::uint32_t parent_time = 0;
    std::string parent_name;  ///< UTF-8
    std::array<Locator, 8> locators{};

    [[nodiscard]] std::uint32_t bitmap_bytes() const {
        return static_cast<std::uint32_t>(round_up(divide_up(block / 512, 8), 512));
    }
    [[nodiscard]] std::uint64_t table_bytes() const {
        return round_up(std::uint64_t{entries} * 4, 512);
    }
};

/// Parses a dynamic header (1024 bytes) of an image of `size` bytes: its table covers the disk.
Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t size,
                            std::string_view name);
/// The parent's name must fit its 256 UTF-16 units: InvalidArgument otherwise.
Result<std::vector<std::byte>> serialise_header(const Header& header);

}  // namespace strata::block::vhd
