// NewImage: making an image file out of a few pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block/node.h"
#include "block/registry.h"

namespace strata::block {

/// Pieces of a new image: offset, bytes. The first is written last: it is what makes the file an
/// image.
using Pieces = std::vector<std::pair<std::uint64_t, std::vector<std::byte>>>;

/// Makes `path` a file of `size` bytes (what lies between the pieces is zeros) and makes it
/// durable.
Task<> write_new_image(Loop& loop, std::string path, Pieces pieces, std::uint64_t size,
                       Preallocation preallocation = Preallocation::Off);

/// One of `allowed`, the first if the option was not given; InvalidArgument otherwise.
Result<std::string_view> choice(const CreateRequest& request, std::string_view name,
                                std::span<const std::string_view> allowed);

/// The wanted size in whole sectors; InvalidArgument if it is 0 or more than `limit`.
Result<std::uint64_t> disk_size_of(const CreateRequest& request, std::string_view format,
                                   std::uint64_t limit);

/// FormatInfo's field of a format: a name in QEMU's JSON, a label in its text.
InfoField info_field(std::string_view name, std::string_view label, InfoValue value);

}  // namespace strata::block
