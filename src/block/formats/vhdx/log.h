// VhdxLog: the journal of a VHDX image: which writes an interrupted writer left to be done.
//
// The log is a ring of entries, each under one CRC-32C, each with a sequence number and the place
// of the oldest entry that still counts. The active sequence is the run of consecutive entries that
// ends in the highest number and reaches back to its own tail; only that is replayed. A log that
// has no such run is empty of meaning: the image cannot be trusted. Format: [MS-VHDX] 2.3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "block/formats/common/wire.h"

namespace strata::block::vhdx {

/// What a replay changes, in its final state: ranges of the file that do not overlap, in order.
class LogPatch {
  public:
    /// Later writes win over earlier ones.
    void set(std::uint64_t offset, std::vector<std::byte> data);
    void zero(std::uint64_t offset, std::uint64_t length);
    /// Lays the changes over `bytes`, which were read at `offset`.
    void apply(std::uint64_t offset, std::span<std::byte> bytes) const;

    struct Range {
        std::uint64_t length = 0;
        std::vector<std::byte> data;  ///< empty: zeros
    };
    [[nodiscard]] const std::map<std::uint64_t, Range>& ranges() const { return ranges_; }
    std::uint64_t file_size = 0;     ///< the file must have at least as many bytes
    std::uint64_t flushed_size = 0;  ///< the file must have had as many before the replay

  private:
    void cut(std::uint64_t offset, std::uint64_t length);
    std::map<std::uint64_t, Range> ranges_;
};

/// Finds the active sequence of `log` (the whole ring) for the header's `id` and gathers its
/// writes.
Result<LogPatch> replay_log(std::span<const std::byte> log, const RawUuid& id,
                            std::string_view name);

}  // namespace strata::block::vhdx
