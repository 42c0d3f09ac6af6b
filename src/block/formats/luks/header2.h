// LuksHeader2: the header of encrypted volumes, LUKS version 2, checked: a binary part, and JSON
// that names key slots, segments, digests.
//
// Two copies lie one behind the other, each with a checksum; the newer sound one counts. Read here:
// volumes of one segment, key slots with PBKDF2 or Argon2. Format: "LUKS2 On-Disk Format
// Specification" 1.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::luks {

/// More would be an attack: an opener's memory, and a minute and more of its time.
inline constexpr std::uint32_t kMaxArgonKib = 1U << 20, kMaxArgonPasses = 64, kMaxArgonThreads = 16;
inline constexpr std::uint64_t kMaxHeader2 = 4U << 20;

struct Kdf {
    std::string type;  ///< "pbkdf2", "argon2i", "argon2id"
    std::string hash;
    std::uint32_t iterations = 0;
    std::uint32_t passes = 0, kib = 0, threads = 0;
    std::vector<std::byte> salt;
};

struct Slot2 {
    std::uint32_t number = 0;
    std::uint32_t key_bytes = 0;
    Kdf kdf;
    std::string af_hash;
    std::uint32_t stripes = 0;
    std::uint64_t offset = 0, length = 0;  ///< of its material
    std::string encryption;                ///< "aes-xts-plain64"
    std::uint32_t area_key_bytes = 0;
};

struct Digest2 {
    std::set<std::string> slots;
    std::string hash;
    std::uint32_t iterations = 0;
    std::vector<std::byte> salt, digest;
};

struct Header2 {
    std::string uuid, label;
    std::uint64_t sequence = 0;
    std::vector<Slot2> slots;
    std::vector<Digest2> digests;  ///< of the segment
    std::uint64_t payload = 0;     ///< where the segment begins, bytes
    std::uint64_t size = 0;        ///< of the segment; 0: to the end of the file
    std::string encryption;
    std::uint64_t iv_tweak = 0;
    std::uint32_t sector = 512;
};

/// Both copies, one behind the other, as they begin a volume: kHeader2Bytes twice. `area`: bytes of
/// the key slots, which follow.
inline constexpr std::uint64_t kHeader2Bytes = 16384;
Result<std::vector<std::byte>> serialise_header2(const Header2& header, std::uint64_t area);

bool is_image2(std::span<const std::byte> bytes);
/// `bytes`: the start of the file, up to twice kMaxHeader2 of it.
Result<Header2> parse_header2(std::span<const std::byte> bytes, std::uint64_t file_size,
                              std::string_view name);

}  // namespace strata::block::luks
