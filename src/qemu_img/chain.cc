// find_layer: by name or by file.
#include "qemu_img/chain.h"

#include <filesystem>

#include "qemu_img/session.h"

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

}  // namespace strata::qemu_img
