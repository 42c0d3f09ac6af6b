// Compressed clusters: one cluster in, exactly one cluster out.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "block/formats/qcow2/header.h"

namespace strata::block::qcow2 {

/// Fills `out` exactly; bytes after the end of the compressed stream are ignored. False: the stream
/// is broken.
bool decompress(Compression method, std::span<const std::byte> in, std::span<std::byte> out);

/// Compresses `in` into `out`; the number of bytes, or 0 if it does not fit, that is, does not pay.
std::size_t compress(Compression method, std::span<const std::byte> in, std::span<std::byte> out);

}  // namespace strata::block::qcow2
