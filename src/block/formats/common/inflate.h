// Inflate and deflate: whole compressed blocks of images, raw deflate or zlib: exactly as many
// bytes as a block has.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"

namespace strata::block {

/// What follows the stream in `from` is ignored; a stream of more or fewer bytes than `into` has is
/// an error (EIO).
Result<> inflate_raw(std::span<const std::byte> from, std::span<std::byte> into);
Result<> inflate_zlib(std::span<const std::byte> from, std::span<std::byte> into);

/// Raw deflate; answers the bytes made, 0 if they do not fit.
std::size_t deflate_raw(std::span<const std::byte> from, std::span<std::byte> into);

}  // namespace strata::block
