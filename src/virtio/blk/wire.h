// Wire: wire structures of virtio-blk. VIRTIO 1.2, 5.2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/endian.h"

namespace strata::virtio::blk {

struct Features {
    static constexpr std::uint64_t kSegMax = 1ULL << 2;
    static constexpr std::uint64_t kReadOnly = 1ULL << 5;
    static constexpr std::uint64_t kBlockSize = 1ULL << 6;
    static constexpr std::uint64_t kFlush = 1ULL << 9;
    static constexpr std::uint64_t kTopology = 1ULL << 10;
    static constexpr std::uint64_t kMultiQueue = 1ULL << 12;
    static constexpr std::uint64_t kDiscard = 1ULL << 13;
    static constexpr std::uint64_t kWriteZeroes = 1ULL << 14;
};

/// VIRTIO 1.2, 5.2.4.
struct Config {
    Le64 capacity;  ///< in 512-byte sectors
    Le32 size_max;
    Le32 seg_max;
    Le16 cylinders;
    std::uint8_t heads = 0;
    std::uint8_t sectors = 0;
    Le32 blk_size;
    std::uint8_t physical_block_exp = 0;
    std::uint8_t alignment_offset = 0;
    Le16 min_io_size;
    Le32 opt_io_size;
    std::uint8_t writeback = 0;
    std::uint8_t unused0 = 0;
    Le16 num_queues;
    Le32 max_discard_sectors;
    Le32 max_discard_seg;
    Le32 discard_sector_alignment;
    Le32 max_write_zeroes_sectors;
    Le32 max_write_zeroes_seg;
    std::uint8_t write_zeroes_may_unmap = 0;
    std::uint8_t unused1[3];
};
static_assert(sizeof(Config) == 60 && offsetof(Config, max_discard_sectors) == 36);

/// VIRTIO 1.2, 5.2.6.
struct RequestHeader {
    Le32 type;
    Le32 reserved;
    Le64 sector;
};
static_assert(sizeof(RequestHeader) == 16);

struct RequestType {
    static constexpr std::uint32_t kIn = 0;
    static constexpr std::uint32_t kOut = 1;
    static constexpr std::uint32_t kFlush = 4;
    static constexpr std::uint32_t kGetId = 8;
    static constexpr std::uint32_t kDiscard = 11;
    static constexpr std::uint32_t kWriteZeroes = 13;
};

enum class Status : std::uint8_t { Ok = 0, IoError = 1, Unsupported = 2 };

/// A range of Discard and WriteZeroes.
struct Segment {
    Le64 sector;
    Le32 sectors;
    Le32 flags;  ///< bit 0: unmap
};
static_assert(sizeof(Segment) == 16);

inline constexpr std::size_t kIdSize = 20;

}  // namespace strata::virtio::blk
