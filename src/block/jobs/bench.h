// Bench: requests of one size at a depth, at offsets that step through an image.
#pragma once

#include <cstdint>

#include "block/node.h"

namespace strata::block {

struct BenchOptions {
    std::uint64_t count = 75000;
    unsigned depth = 64;
    std::uint64_t offset = 0, size = 4096, step = 4096;  ///< bytes; offsets wrap at the image's end
    bool write = false;
    std::uint8_t pattern = 0;
    std::uint64_t flush_interval = 0;  ///< requests between flushes; 0: none
    bool drain = true;                 ///< all requests end before a flush starts
};

/// Seconds that the requests took.
Task<double> bench_image(Node& node, BenchOptions options);

}  // namespace strata::block
