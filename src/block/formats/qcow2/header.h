// Qcow2Header: the header of a qcow2 image, version 2 and 3, checked: whatever was parsed is safe
// to compute with.
//
// Format: QEMU's docs/interop/qcow2.txt. The limits are QEMU's, so that an image that opens here
// opens there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace strata::block::qcow2 {

inline constexpr std::uint32_t kMagic = 0x514649FB;
inline constexpr std::uint64_t kMaxL1Bytes = 32ULL << 20;
inline constexpr std::uint64_t kMaxRefcountTableBytes = 8ULL << 20;
inline constexpr std::uint32_t kMaxSnapshots = 65536;
inline constexpr std::size_t kMaxBackingName = 1023;
inline constexpr std::uint64_t kMaxHostOffset = 1ULL << 56;

// Feature bits.
inline constexpr std::uint64_t kDirty = 1, kCorrupt = 2, kExternalData = 4, kCompressionType = 8,
                               kExtendedL2 = 16;
inline constexpr std::uint64_t kLazyRefcounts = 1;
inline constexpr std::uint64_t kBitmaps = 1, kRawExternalData = 2;

// Places of fields that are rewritten alone.
inline constexpr std::uint64_t kClusterBitsField = 20, kRefcountTableField = 48,
                               kSnapshotsField = 60, kIncompatibleField = 72, kAutoclearField = 88;
inline constexpr std::uint32_t kBitmapsExtension = 0x23852875, kEncryptionExtension = 0x0537BE77;

// Header::encryption.
inline constexpr std::uint32_t kEncryptionAes = 1, kEncryptionLuks = 2;

enum class Compression : std::uint8_t { Zlib = 0, Zstd = 1 };

struct Header {
    std::uint32_t version = 3;
    std::uint32_t cluster_bits = 16;
    std::uint64_t size = 0;  ///< of the virtual disk, bytes
    std::uint32_t encryption = 0;
    std::uint32_t l1_entries = 0;
    std::uint64_t l1_offset = 0;
    std::uint64_t refcount_table_offset = 0;
    std::uint32_t refcount_table_clusters = 0;
    std::uint32_t snapshots = 0;
    std::uint64_t snapshots_offset = 0;
    std::uint64_t incompatible = 0, compatible = 0, autoclear = 0;
    std::uint32_t refcount_order = 4;
    Compression compression = Compression::Zlib;
    std::string backing, backing_format, data_file;
    bool has_bitmaps = false;  ///< the extension is there and may be relied on
    std::vector<std::pair<std::uint32_t, std::vector<std::byte>>>
        extensions;  ///< those without a field above, as they are

    [[nodiscard]] std::uint64_t cluster() const { return 1ULL << cluster_bits; }
    [[nodiscard]] bool extended() const { return (incompatible & kExtendedL2) != 0; }
    [[nodiscard]] std::uint32_t entry_bytes() const { return extended() ? 16 : 8; }
    [[nodiscard]] std::uint64_t l2_entries() const { return cluster() / entry_bytes(); }
    [[nodiscard]] std::uint64_t refcounts_per_block() const {
        return cluster() * 8 >> refcount_order;
    }
    /// Entries that the virtual size asks for.
    [[nodiscard]] std::uint64_t l1_needed() const;
};

/// Parses the start of an image (its first cluster, or all of a shorter file). `any_snapshots`: for
/// a repair, more than there may be are no error.
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name,
                            bool any_snapshots = false);

/// The header with its extensions, at most a cluster. The header's own limits hold. `features`:
/// with the table of the features' names, if there is room.
Result<std::vector<std::byte>> serialise_header(const Header& header, bool features = true);

/// Of a header's bytes, a whole cluster.
[[nodiscard]] std::uint32_t header_version(std::span<const std::byte> bytes);
/// Where its extensions and the backing file's name end, whichever is last.
[[nodiscard]] std::size_t header_end(std::span<const std::byte> bytes);
/// The same header, whose first sector leads to its extensions (version 3) and to the backing
/// file's name at `to`, behind all that it uses; nothing if that does not fit.
std::optional<std::vector<std::byte>> move_header(std::span<const std::byte> bytes, std::size_t to);

}  // namespace strata::block::qcow2
