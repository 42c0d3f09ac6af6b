// Amend: the formats that can, and the check of names.
#include "block/amend.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "block/formats/luks/luks.h"
#include "block/formats/qcow2/create.h"

namespace strata::block {

std::span<const CreateOption> amend_options(std::string_view format) {
    return format == "qcow2"  ? qcow2::amend_options()
           : format == "luks" ? luks::amend_options()
                              : std::span<const CreateOption>();
}

Task<> amend_image(NodePtr node, AmendRequest request) {
    const std::string format(node->format());
    const std::span<const CreateOption> known = amend_options(format);
    auto* amendable = dynamic_cast<Amendable*>(node.get());
    if (known.empty() || amendable == nullptr) {
        co_return Error{ErrorKind::NotSupported,
                        fmt::format("'{}': {} images have no options that can be changed",
                                    node->name(), format)};
    }
    for (const auto& option : request.options) {
        const std::string& name = option.first;
        if (std::none_of(known.begin(), known.end(),
                         [&](const CreateOption& each) { return each.name == name; })) {
            std::string all;
            for (const CreateOption& each : known) {
                all += fmt::format("{}{}", all.empty() ? "" : ", ", each.name);
            }
            co_return Error{ErrorKind::InvalidArgument,
                            fmt::format("{} images cannot change '{}'; what can be changed: {}",
                                        format, name, all)};
        }
    }
    co_return co_await amendable->change_options(std::move(request));
}

}  // namespace strata::block
