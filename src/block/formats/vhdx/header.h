// VhdxHeader: the headers, region table, metadata and block table entries of Hyper-V images (VHDX),
// checked.
//
// Layout: identifier at 0, two headers at 64 and 128 KiB (the one of the higher sequence number
// holds), two region tables at 192 and 256 KiB that point at the block table (BAT) and the
// metadata. Everything is little-endian and under CRC-32C. Format: [MS-VHDX].
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/common/wire.h"

namespace strata::block::vhdx {

inline constexpr std::uint64_t kHeaderOffset[2] = {64U << 10, 128U << 10};
inline constexpr std::uint64_t kRegionOffset[2] = {192U << 10, 256U << 10};
inline constexpr std::size_t kHeaderBytes = 4096, kRegionBytes = 64U << 10;
/// Identifier, headers and region tables: what is read first.
inline constexpr std::size_t kStartBytes = 320U << 10;
inline constexpr std::uint64_t kMiB = 1ULL << 20;
inline constexpr std::uint64_t kMaxSize = 64ULL << 40;
inline constexpr std::uint64_t kMaxLog = 64 * kMiB;
/// The metadata's items lie in the first of it: a table of 64 KiB and the items of at most 1 MiB in
/// sum.
inline constexpr std::size_t kMaxMetadata = 2 * kMiB;

struct Header {
    unsigned index = 0;  ///< which of the two holds
    std::uint64_t sequence = 0;
    RawUuid file_write{}, data_write{}, log{};
    std::uint32_t log_length = 0;
    std::uint64_t log_offset = 0;
    [[nodiscard]] bool dirty() const { return log != RawUuid{}; }
};
struct Region {
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
};
struct Regions {
    Region bat, metadata;
    std::vector<Region> others{};  ///< unknown here, and none of our business
};
struct Parameters {
    std::uint32_t block = 0;       ///< bytes
    bool leave_allocated = false;  ///< a "fixed" image
    bool has_parent = false;
    std::uint64_t size = 0;
    std::uint32_t logical_sector = 512, physical_sector = 4096;
    RawUuid disk_id{};
    /// The parent locator's keys and values, e.g. "relative_path".
    std::vector<std::pair<std::string, std::string>> parent{};

    [[nodiscard]] std::uint64_t chunk_ratio() const {
        return (std::uint64_t{1} << 23) * logical_sector / block;
    }
    [[nodiscard]] std::uint64_t blocks() const { return divide_up(size, block); }
    [[nodiscard]] std::uint64_t bat_entries() const;
    /// Where in the BAT the entry of payload block `block_index` is, and that of its chunk's sector
    /// bitmap.
    [[nodiscard]] std::uint64_t payload_entry(std::uint64_t block_index) const {
        return block_index + block_index / chunk_ratio();
    }
    [[nodiscard]] std::uint64_t bitmap_entry(std::uint64_t block_index) const {
        return (block_index / chunk_ratio()) * (chunk_ratio() + 1) + chunk_ratio();
    }
    /// The value of a parent locator's key, or "".
    [[nodiscard]] std::string_view parent_value(std::string_view key) const;
};

enum class State : std::uint8_t {
    NotPresent = 0,
    Undefined = 1,
    Zero = 2,
    Unmapped = 3,
    Present = 6,
    Partial = 7
};
[[nodiscard]] constexpr State state_of(std::uint64_t entry) {
    return static_cast<State>(entry & 7);
}
[[nodiscard]] constexpr std::uint64_t offset_of(std::uint64_t entry) {
    return entry & ~(kMiB - 1);
}

/// True if `bytes` begin with the identifier: for probing.
bool is_image(std::span<const std::byte> bytes);
/// The header that holds; `start` is the file's first kStartBytes.
Result<Header> parse_headers(std::span<const std::byte> start, std::string_view name);
Result<Regions> parse_regions(std::span<const std::byte> start, std::string_view name);
/// `metadata`: the start of its region, at most kMaxMetadata bytes.
Result<Parameters> parse_metadata(std::span<const std::byte> metadata, std::string_view name);

/// One header (4096 bytes).
std::vector<std::byte> serialise_header(const Header& header);
/// The identifier (64 KiB).
std::vector<std::byte> serialise_identifier();
std::vector<std::byte> serialise_regions(const Regions& regions);
/// The metadata's first 128 KiB.
std::vector<std::byte> serialise_metadata(const Parameters& parameters);

}  // namespace strata::block::vhdx
