// The compressions of Apple's disk images: each turns a whole chunk into exactly the bytes that it
// stands for, or is an error.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"

namespace strata::block::dmg {

Result<> unpack_bzip2(std::span<const std::byte> from, std::span<std::byte> into);
Result<> unpack_lzma(std::span<const std::byte> from, std::span<std::byte> into);
/// Apple Data Compression: literals and matches of up to 64 KiB back.
Result<> unpack_adc(std::span<const std::byte> from, std::span<std::byte> into);
/// LZFSE with its LZVN and stored blocks (lzfse.cc).
Result<> unpack_lzfse(std::span<const std::byte> from, std::span<std::byte> into);

/// Copies `length` bytes within `out` from `distance` before `at` to `at`, byte after byte: they
/// may overlap. False: out of bounds.
bool copy_match(std::span<std::byte> out, std::size_t at, std::size_t distance, std::size_t length);

}  // namespace strata::block::dmg
