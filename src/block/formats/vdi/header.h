// VdiHeader: the header of VirtualBox images (VDI 1.1), checked.
//
// A preheader (64 characters, signature, version) and a header of 400 bytes, little-endian; then a
// map of 32-bit block indexes at offset_map, then the blocks, each behind `extra` bytes of its own,
// at offset_data. Format: VirtualBox's VDICore.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "block/formats/common/wire.h"

namespace strata::block::vdi {

inline constexpr std::size_t kHeaderBytes = 512;
inline constexpr std::uint32_t kFree = 0xFFFFFFFF, kZero = 0xFFFFFFFE;
inline constexpr std::uint32_t kDefaultBlock = 1U << 20;
inline constexpr std::uint64_t kMaxMapBytes = 512ULL << 20;  ///< of what is made here
/// Where the count of allocated blocks lies: the one field that is rewritten alone.
inline constexpr std::uint64_t kAllocatedField = 388;

enum class Type : std::uint32_t { Dynamic = 1, Static = 2, Undo = 3, Differencing = 4 };

struct Header {
    Type type = Type::Dynamic;
    std::uint64_t offset_map = 512, offset_data = 0;
    std::uint64_t size = 0;
    std::uint32_t block = kDefaultBlock, extra = 0;
    std::uint32_t blocks = 0, allocated = 0;
    RawUuid uuid{}, modification{}, link{}, parent{};

    /// Borne as long as the image is empty and only read.
    [[nodiscard]] bool map_overlaps_data() const {
        return offset_data < offset_map + blocks * 4ULL;
    }
    [[nodiscard]] bool differencing() const { return link != RawUuid{}; }
    [[nodiscard]] std::uint64_t stride() const { return std::uint64_t{block} + extra; }
};

/// True if `bytes` begin as a VDI image: for probing.
bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);
std::vector<std::byte> serialise_header(const Header& header);

}  // namespace strata::block::vdi
