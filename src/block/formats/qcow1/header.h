// Qcow1Header: the header of the first QEMU copy-on-write format, checked.
//
// 48 bytes, big-endian; an L1 table of places of L2 tables, these of clusters; the top bit of an L2
// entry says compressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::qcow1 {

inline constexpr std::size_t kHeaderBytes = 48;
inline constexpr std::uint64_t kCompressed = 1ULL << 63;
inline constexpr std::size_t kMaxBackingName = 1023;
inline constexpr std::uint64_t kMaxL1Bytes = 64ULL << 20;

struct Header {
    std::uint64_t size = 0;
    std::uint32_t cluster_bits = 12, l2_bits = 9;
    std::uint32_t encryption = 0;  ///< 1: AES
    std::uint64_t l1_offset = kHeaderBytes;
    std::uint64_t backing_offset = 0;
    std::uint32_t backing_bytes = 0;
    std::uint32_t modified = 0;

    [[nodiscard]] std::uint64_t cluster() const { return 1ULL << cluster_bits; }
    [[nodiscard]] std::uint64_t l2_bytes() const { return 8ULL << l2_bits; }
    [[nodiscard]] std::uint64_t l1_entries() const;
    /// Of a compressed entry: where, and at most how many bytes.
    [[nodiscard]] std::uint64_t compressed_offset(std::uint64_t entry) const {
        return entry & ((1ULL << (63 - cluster_bits)) - 1);
    }
    [[nodiscard]] std::uint64_t compressed_bytes(std::uint64_t entry) const {
        return (entry >> (63 - cluster_bits)) & (cluster() - 1);
    }
};

bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);
std::vector<std::byte> serialise_header(const Header& header);

}  // namespace strata::block::qcow1
