// VmdkDescriptor: the text that says what a VMware disk (VMDK) is made of.
//
// Lines `key=value` and extent lines `ACCESS SECTORS TYPE "NAME" [OFFSET]`. It is a file of its own
// or lies inside a sparse extent. Extent names are untrusted: they are opened through the reference
// policy alone. Format: VMware's "Virtual Disk Format 5.0"; libvmdk's documentation for what that
// leaves out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace strata::block::vmdk {

inline constexpr std::size_t kMaxDescriptor = 4U << 20;
inline constexpr std::size_t kMaxExtents = 65536;
inline constexpr std::uint64_t kMaxSectors = 1ULL << 52;
inline constexpr std::uint32_t kNoParent = 0xFFFFFFFF;

enum class ExtentType : std::uint8_t { Flat, Zero, Sparse, VmfsSparse, SeSparse };

struct ExtentLine {
    bool writable = true;
    std::uint64_t sectors = 0;
    ExtentType type = ExtentType::Flat;
    std::string type_name{};   ///< as it stood there: "FLAT", "VMFS" …
    std::string file{};        ///< empty: none (ZERO)
    std::uint64_t offset = 0;  ///< sectors into the file
};

struct Descriptor {
    std::string create_type;
    std::uint32_t cid = 0xFFFFFFFE, parent_cid = kNoParent;
    std::string parent;  ///< parentFileNameHint
    std::vector<ExtentLine> extents;
    std::vector<std::pair<std::string, std::string>>
        disk_database;  ///< the `ddb.` lines: key, value without quotes

    /// Bytes.
    [[nodiscard]] std::uint64_t size() const;
};

/// True if `bytes` begin as a descriptor: for probing.
bool is_descriptor(std::span<const std::byte> bytes);
/// Parses a descriptor; what follows the first NUL is padding.
Result<Descriptor> parse_descriptor(std::span<const std::byte> bytes, std::string_view name);
std::string serialise_descriptor(const Descriptor& descriptor);
/// `text` with its `CID=` line replaced: what a writer changes before its first write. The length
/// stays.
Result<std::string> with_cid(std::string text, std::uint32_t cid, std::string_view name);

}  // namespace strata::block::vmdk
