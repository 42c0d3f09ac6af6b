// find_layer: by name or by file.
#include "qemu_img/chain.h"

#include <filesystem>

namespace strata::qemu_img {

block::Node* find_layer(block::Node& top, const std::string& name) {
    const block::Node* above = &top;
    for (block::Node* layer = top.backing(); layer != nullptr; layer = layer->backing()) {
        std::error_code code;
        if (std::filesystem::equivalent(layer->name(), beside(above->name(), name), code)) {
            return layer;
        }
        above = layer;
    }
    return nullptr;
}

Result<ImageSpec> spec_of_layer(Session& session, block::Node& top, block::Node& layer) {
    for (block::Node* above = &top; above != nullptr; above = above->backing()) {
        if (above->backing() != &layer) {
            continue;
        }
        const block::FormatInfo info = STRATA_TRY(session.run(above->info()));
        const bool guessed = info.backing_format.empty() && layer.format() == "raw";
        return ImageSpec{is_plain_name(info.backing_name) ? layer.name() : info.backing_name,
                         std::string(layer.format()), false, guessed};
    }
    return ImageSpec{layer.name(), std::string(layer.format()), false};
}

}  // namespace strata::qemu_img
