// What an image tells about itself: information, checks, snapshots, bitmaps, sizes. Plain values,
// to print or to compare.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace strata::block {

struct InfoField;

/// A value for people and scripts: its JSON kind follows the alternative.
using InfoValue = std::variant<bool, std::int64_t, std::string, std::vector<std::string>,
                               std::vector<InfoField>, std::vector<std::vector<InfoField>>>;

struct InfoField {
    std::string name;   ///< as in QEMU's JSON, e.g. "refcount-bits"
    std::string label;  ///< as in QEMU's text, e.g. "refcount bits"
    InfoValue value;
};

/// What a format says beyond the node's own size and traits.
struct FormatInfo {
    std::uint64_t cluster_size = 0;  ///< 0: it has none
    bool encrypted = false;
    bool dirty = false;                        ///< was not closed
    std::string backing_name, backing_format;  ///< as stored; empty: none
    std::string data_file;
    std::uint64_t vm_state_offset = 0;
    std::vector<InfoField> specific;  ///< what QEMU calls format-specific
};

enum class Repair : std::uint8_t { Nothing, Leaks, All };

/// What a check found and mended, in the terms of `qemu-img check`.
struct CheckReport {
    std::uint64_t check_errors = 0;            ///< what could not be looked at
    std::uint64_t corruptions = 0, leaks = 0;  ///< still there
    std::uint64_t corruptions_fixed = 0, leaks_fixed = 0;
    std::uint64_t image_end_offset = 0;
    std::uint64_t total_clusters = 0, allocated_clusters = 0, fragmented_clusters = 0,
                  compressed_clusters = 0;
    std::vector<std::string> messages;  ///< the first ones, one finding each
    [[nodiscard]] bool clean() const { return check_errors == 0 && corruptions == 0 && leaks == 0; }
};

struct SnapshotInfo {
    std::string id, name;
    std::uint64_t vm_state_size = 0;
    std::uint32_t date_seconds = 0, date_nanoseconds = 0;
    std::uint64_t vm_clock_nanoseconds = 0;
    std::optional<std::uint64_t> icount;
    std::uint64_t disk_size = 0;
};

struct BitmapInfo {
    std::string name;
    std::uint64_t granularity = 0;  ///< bytes a bit
    bool in_use = false;  ///< was not stored when the image was last written: take it as all dirty
    bool automatic = false;  ///< records writes
};

/// A dirty bitmap with its content.
struct Bitmap {
    BitmapInfo info;
    std::uint64_t size = 0;           ///< bytes of disk it stands for
    std::vector<std::uint64_t> bits;  ///< bit n: [n * granularity, (n + 1) * granularity)
};

/// How large an image would be.
struct Measurement {
    std::uint64_t required = 0, fully_allocated = 0, bitmaps = 0;
};

enum class Preallocation : std::uint8_t { Off, Metadata, Falloc, Full };

/// A create option as `-o help` prints it.
struct CreateOption {
    enum class Kind : std::uint8_t { Text, Flag, Size, Number };
    std::string_view name;
    Kind kind = Kind::Text;
    std::string_view help;
    std::string_view fallback{};  ///< the default, if worth telling
};

/// name=value, the last of a name counts.
using OptionList = std::vector<std::pair<std::string, std::string>>;

}  // namespace strata::block
