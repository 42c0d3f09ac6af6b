// Qcow2 create: options and making of a new image.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "block/formats/qcow2/header.h"

namespace strata::block::qcow2 {

struct CreateOptions {
    std::uint64_t size = 0;
    std::uint32_t version = 3;
    std::uint64_t cluster = 65536;
    std::uint64_t refcount_bits = 16;
    bool extended_l2 = false;
    bool lazy_refcounts = false;
    Compression compression = Compression::Zlib;
    std::string backing, backing_format;  ///< both or neither; not opened here
};

/// Makes an image at `path`; what was there is replaced.
Result<> create(const std::string& path, const CreateOptions& options);

}  // namespace strata::block::qcow2
