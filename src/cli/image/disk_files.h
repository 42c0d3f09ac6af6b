// Disk files: what the image commands share: opening by named format, and qemu-img's -o options.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "block/blocking_image.h"

namespace strata::cli {

/// Opens an existing image to read. The format must be named: a guest can write any header into a raw disk.
Result<std::unique_ptr<block::BlockingImage>> open_source(std::string_view path, std::string_view format, bool follow_references);

struct NewDisk {
    std::string path, format, backing, backing_format;
    std::uint64_t size = 0;
    std::span<const std::string_view> options;  ///< "name=value,name=value" each
};

/// Makes an empty image; what was at `path` is replaced.
Result<> make_disk(const NewDisk& disk);

}  // namespace strata::cli
