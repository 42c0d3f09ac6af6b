// DmgChunkTable: what an Apple disk image (UDIF) is made of: the trailer, the property list, the
// block tables in it.
//
// The last 512 bytes ("koly") point at a property list, whose base64 data are tables ("mish") of
// chunks: a range of the disk, a range of the data fork, a way of compression. Older images have
// the tables in a resource fork. Everything is big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::dmg {

inline constexpr std::size_t kTrailerBytes = 512;
inline constexpr std::uint64_t kMaxPlist = 64ULL << 20;
inline constexpr std::uint64_t kMaxChunkBytes = 64ULL
                                                << 20;  ///< of a compressed chunk, packed or not

enum class ChunkType : std::uint32_t {
    Zero = 0,
    Raw = 1,
    Ignore = 2,
    Adc = 0x80000004,
    Zlib = 0x80000005,
    Bzip2 = 0x80000006,
    Lzfse = 0x80000007,
    Lzma = 0x80000008,
    Comment = 0x7FFFFFFE,
    End = 0xFFFFFFFF,
};

struct Trailer {
    std::uint64_t data_offset = 0;  ///< of the data fork
    std::uint64_t resource_offset = 0, resource_length = 0;
    std::uint64_t plist_offset = 0, plist_length = 0;
};

struct Chunk {
    std::uint64_t start = 0, length = 0;   ///< bytes of the disk
    std::uint64_t offset = 0, packed = 0;  ///< bytes of the file
    ChunkType type = ChunkType::Zero;
};

/// True if `bytes` begin with a trailer.
bool is_trailer(std::span<const std::byte> bytes);
/// `file_size`: what the trailer's ranges must lie in.
Result<Trailer> parse_trailer(std::span<const std::byte> bytes, std::uint64_t file_size,
                              std::string_view name);
/// The chunks of a property list or a resource fork, in the order of the disk, none over another.
Result<std::vector<Chunk>> parse_plist(std::span<const std::byte> text, const Trailer& trailer,
                                       std::uint64_t file_size, std::string_view name);
Result<std::vector<Chunk>> parse_resources(std::span<const std::byte> fork, const Trailer& trailer,
                                           std::uint64_t file_size, std::string_view name);

}  // namespace strata::block::dmg
