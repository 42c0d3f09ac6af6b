// One go: which images are made by writing whole clusters one after another, told before one is.
#pragma once

#include <string_view>

#include "block/registry.h"

namespace strata::block {

/// An image of `format` that `request` makes is a stream (NodeTraits::whole_clusters): what is
/// there cannot be written again, nor can a part be gone on with.
[[nodiscard]] bool written_in_one_go(std::string_view format, const CreateRequest& request);

}  // namespace strata::block
