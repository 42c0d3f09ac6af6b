// VmdkSparseHeader: the headers of sparse extents: hosted ("KDMV", all of VMware's desktop products
// and streamOptimized), ESX's copy-on-write ("COWD") and, of a stream, markers and footer; checked.
//
// A grain directory points at grain tables, these at grains; all places are in sectors, 0 for none,
// 1 for a zeroed grain where the flags say so. Little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::vmdk {

inline constexpr std::size_t kHeaderBytes = 512, kCowdHeaderBytes = 2048;
inline constexpr std::uint64_t kDirectoryAtEnd =
    ~0ULL;  ///< gd_offset of a stream: the footer has it
inline constexpr std::uint32_t kFlagNewline = 1, kFlagRedundant = 2, kFlagZeroGrain = 4,
                               kFlagCompressed = 1U << 16, kFlagMarkers = 1U << 17;
/// Limits: a table has at most this many entries, a directory at most this many.
inline constexpr std::uint32_t kMaxTableEntries = 512, kCowdTableEntries = 4096;
inline constexpr std::uint64_t kMaxDirectoryEntries = 512ULL << 20 >> 2;
inline constexpr std::uint64_t kMaxGrain = 128;  ///< sectors of a compressed grain: 64 KiB

struct SparseHeader {
    bool cowd = false;
    std::uint32_t version = 1, flags = kFlagNewline;
    std::uint64_t capacity = 0;  ///< sectors
    std::uint64_t grain = 128;   ///< sectors
    std::uint64_t descriptor_offset = 0, descriptor_sectors = 0;
    std::uint32_t table_entries = 512;
    std::uint64_t redundant_directory = 0, directory = 0;  ///< sectors
    std::uint64_t overhead = 0;                            ///< sectors before the first grain
    bool unclean = false;
    std::uint16_t compression = 0;  ///< 1: deflate

    [[nodiscard]] bool compressed() const { return (flags & kFlagCompressed) != 0; }
    [[nodiscard]] bool markers() const { return (flags & kFlagMarkers) != 0; }
    [[nodiscard]] bool zero_grains() const { return (flags & kFlagZeroGrain) != 0; }
    [[nodiscard]] std::uint64_t grain_bytes() const { return grain * 512; }
    /// Bytes that one table covers.
    [[nodiscard]] std::uint64_t table_span() const { return grain * 512 * table_entries; }
    [[nodiscard]] std::uint64_t tables() const {
        return (capacity * 512 + table_span() - 1) / table_span();
    }
};

/// True if `bytes` begin as a sparse extent of either kind: for probing.
bool is_sparse(std::span<const std::byte> bytes);
/// Parses the first bytes of an extent (kHeaderBytes, or kCowdHeaderBytes of a COWD one), or a
/// stream's footer.
Result<SparseHeader> parse_sparse_header(std::span<const std::byte> bytes, std::string_view name);
/// A hosted header (512 bytes).
std::vector<std::byte> serialise_sparse_header(const SparseHeader& header);

enum class Marker : std::uint32_t { EndOfStream = 0, Table = 1, Directory = 2, Footer = 3 };
/// A marker sector of a stream: `sectors` of metadata follow.
std::vector<std::byte> serialise_marker(Marker type, std::uint64_t sectors);

}  // namespace strata::block::vmdk
