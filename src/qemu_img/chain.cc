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

Result<ImageSpec> spec_of_layer(Session& session, const ImageSpec& top_spec, block::Node& top,
                                block::Node& layer) {
    const bool tree = top_spec.options || !path_of_name(top_spec.text);
    block::NodeTree said;
    if (tree && !block::is_location(top_spec.text)) {
        said = STRATA_TRY(top_spec.options ? tree_of_options(top_spec.text)
                                           : tree_of_name(top_spec.text));
        for (block::Node* each = &top; each != &layer && each != nullptr; each = each->backing()) {
            said = said.take_child("backing");
        }
    }
    if (!said.empty()) {
        // What the command line says of the layer, a key for instance, is true of it now, too.
        if (!said.has("file") && !said.has("filename")) {
            said.set("file.filename", layer.name());
        }
        if (!said.has("driver")) {
            said.set("driver", std::string(layer.format()));
        }
        return ImageSpec{name_of_tree(said), std::nullopt, false};
    }
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
