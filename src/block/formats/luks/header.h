// LuksHeader: the header of encrypted volumes, LUKS version 1, checked.
//
// Eight key slots, each with the volume's key split into stripes and encrypted under a passphrase;
// then the payload in sectors of 512 bytes. Big-endian. Format: "LUKS On-Disk Format
// Specification" 1.2.3.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::luks {

inline constexpr std::size_t kHeaderBytes = 592;
inline constexpr std::size_t kDigestBytes = 20, kSaltBytes = 32;
/// More would be an attack on our time: a minute and more for one passphrase.
inline constexpr std::uint32_t kMaxIterations = 1U << 26;
inline constexpr std::uint32_t kMaxStripes = 16384;

struct Slot {
    bool active = false;
    std::uint32_t iterations = 0, stripes = 0;
    std::array<std::byte, kSaltBytes> salt{};
    std::uint64_t offset = 0;  ///< bytes
};
struct Header {
    std::string cipher, mode, hash;
    std::uint64_t payload = 0;  ///< bytes
    std::uint32_t key_bytes = 0;
    std::array<std::byte, kDigestBytes> digest{};
    std::array<std::byte, kSaltBytes> digest_salt{};
    std::uint32_t digest_iterations = 0;
    std::string uuid;
    std::array<Slot, 8> slots{};
};

bool is_image(std::span<const std::byte> bytes);
/// `file_size`: what key slots and payload must lie in.
Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t file_size,
                            std::string_view name);
std::vector<std::byte> serialise_header(const Header& header);

}  // namespace strata::block::luks
