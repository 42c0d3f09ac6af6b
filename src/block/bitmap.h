// Bitmap: work on dirty bitmaps in memory.
#pragma once

#include <cstdint>
#include <string>

#include "block/image_info.h"

namespace strata::block {

/// Nothing is dirty of `size` bytes; `granularity` is a power of two.
Bitmap empty_bitmap(std::string name, std::uint64_t size, std::uint64_t granularity,
                    bool automatic);
/// Sets in `into` what is set in `from`, of the same size, each by its own granularity.
void merge_bits(Bitmap& into, const Bitmap& from);
/// [offset, offset + length) is dirty; what lies beyond its end is left out.
void mark_dirty(Bitmap& bitmap, std::uint64_t offset, std::uint64_t length);
/// Bytes that are dirty.
std::uint64_t dirty_bytes(const Bitmap& bitmap);

}  // namespace strata::block
