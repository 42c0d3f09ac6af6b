// QedHeader: the header of QEMU enhanced disks, checked.
//
// 64 bytes, little-endian; two levels of tables of `table_clusters` clusters each. Format: QEMU's
// docs/interop/qed_spec.txt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::qed {

inline constexpr std::size_t kHeaderBytes = 64;
inline constexpr std::uint64_t kBackingFile = 1, kNeedCheck = 2, kBackingIsRaw = 4;

struct Header {
    std::uint32_t cluster = 65536, table_clusters = 4, header_clusters = 1;
    std::uint64_t features = 0, compatible = 0, autoclear = 0;
    std::uint64_t l1_offset = 0;
    std::uint64_t size = 0;
    std::uint32_t backing_offset = 0, backing_bytes = 0;

    [[nodiscard]] std::uint64_t table_bytes() const {
        return std::uint64_t{cluster} * table_clusters;
    }
    [[nodiscard]] std::uint64_t table_entries() const { return table_bytes() / 8; }
};

bool is_image(std::span<const std::byte> bytes);
Result<Header> parse_header(std::span<const std::byte> bytes, std::string_view name);

}  // namespace strata::block::qed
