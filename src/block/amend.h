// Amend: changing an image's own options where it lies, for the formats that can.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "block/image_info.h"
#include "block/node.h"

namespace strata::block {

struct AmendRequest {
    OptionList options;  ///< of amend_options()
    bool force = false;  ///< also what may make the content unreadable for good
    std::function<void(std::uint64_t done, std::uint64_t total)>
        progress{};  ///< may be empty; called on the loop's thread
};

/// A node whose options can be changed.
class Amendable {
  public:
    virtual ~Amendable() = default;
    virtual Task<> change_options(AmendRequest request) = 0;
};

/// What the images of `format` can change; nothing: they cannot.
[[nodiscard]] std::span<const CreateOption> amend_options(std::string_view format);
/// Changes the options of an image, after a look at their names.
Task<> amend_image(NodePtr node, AmendRequest request);

}  // namespace strata::block
