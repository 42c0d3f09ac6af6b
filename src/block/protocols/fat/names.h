// FatNames: what files of a host are called on a FAT disk: long names (VFAT) in UTF-16, and short
// ones (8.3) that everybody can read. Microsoft FAT specification 1.03, sections 5 to 7.
//
// Case does not tell names apart there, and short and long names are one set: of names that clash
// all but the first get a number.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::block::fat {

inline constexpr std::size_t kEntry = 32;      ///< bytes of a folder's entry
inline constexpr std::size_t kMaxLong = 255;   ///< UTF-16 units of a name
inline constexpr std::size_t kShortName = 11;  ///< eight, and three behind a dot that is not there

using ShortName = std::array<char, kShortName>;

struct Names {
    ShortName brief{};
    std::u16string full;  ///< empty: `brief` says it all
};

/// The name in UTF-16; what is no UTF-8, or not allowed there, is '_'.
std::u16string long_name(std::string_view host);

/// Names for all files of one folder, in their order; none is there twice.
std::vector<Names> name_all(std::span<const std::string> hosts);

/// A volume's label: upper case, filled with blanks.
ShortName label_of(std::string_view text);

/// What an entry says besides the name.
struct EntryFacts {
    std::uint8_t attributes = 0;
    std::int64_t seconds = 0;  ///< since 1970; kept in local time, as FAT does
    std::uint32_t cluster = 0, size = 0;
};
struct Attribute {
    static constexpr std::uint8_t kReadOnly = 1, kLabel = 8, kFolder = 16, kArchive = 32;
    static constexpr std::uint8_t kLongName = 15;
};

/// How many entries the names take.
std::size_t entries_of(const Names& names);
/// Appends them: those of the long name, then the one that says where the content is.
void append_entries(std::vector<std::byte>& folder, const Names& names, const EntryFacts& facts);
/// An entry for a short name alone ("." and "..", a label).
void append_entry(std::vector<std::byte>& folder, const ShortName& name, const EntryFacts& facts);
/// Changes where the content of the entry at `at` is.
void set_cluster(std::span<std::byte> folder, std::size_t at, std::uint32_t cluster);

}  // namespace strata::block::fat
