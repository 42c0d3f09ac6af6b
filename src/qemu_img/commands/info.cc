// info: what an image says about itself.
#include <array>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "api/json.h"
#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/json_text.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"
#include "qemu_img/snapshot_table.h"

namespace strata::qemu_img {
namespace {

using api::Json;

constexpr std::array kOptions = {OptionSpec{'f', "format", true},
                                 kOutputOption,
                                 OptionSpec{0, "backing-chain", false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

/// One image, with all that both outputs say.
struct Layer {
    std::string file, format;
    std::uint64_t size = 0;
    std::optional<std::uint64_t> on_disk;
    block::FormatInfo about;
    std::vector<block::SnapshotInfo> snapshots;
    std::string backing_path;
};

Result<Layer> look(Session& session, const ImageSpec& spec, bool share) {
    block::NodePtr node =
        STRATA_TRY(session.open(spec, {.backing = false, .data = false, .share = share}));
    Layer layer;
    layer.file = block::is_location(spec.text) ? spec.text : STRATA_TRY(shown_name(spec));
    if (layer.file.starts_with("json:") && block::is_location(node->name())) {
        layer.file = node->name();
    }
    layer.format = node->format();
    layer.size = node->size();
    layer.about = STRATA_TRY(session.run(node->info()));
    const auto on_disk = session.run(node->allocated_bytes());
    layer.on_disk = on_disk.ok() ? std::optional(on_disk.value()) : std::nullopt;
    auto snapshots = session.run(node->snapshots());
    if (snapshots.ok()) {
        layer.snapshots = std::move(snapshots).value();
    }
    if (!layer.about.backing_name.empty()) {
        const std::string& name = layer.about.backing_name;
        layer.backing_path = is_plain_name(name) && !name.starts_with('/') && node->name().empty()
                                 ? ""
                                 : beside(node->name(), name);
    }
    STRATA_TRY_VOID(session.close(node));
    return layer;
}

Json snapshot_json(const block::SnapshotInfo& snapshot) {
    Json result = {{"id", snapshot.id},
                   {"name", snapshot.name},
                   {"vm-state-size", snapshot.vm_state_size},
                   {"date-sec", snapshot.date_seconds},
                   {"date-nsec", snapshot.date_nanoseconds},
                   {"vm-clock-sec", snapshot.vm_clock_nanoseconds / 1000000000U},
                   {"vm-clock-nsec", snapshot.vm_clock_nanoseconds % 1000000000U}};
    if (snapshot.icount) {
        result["icount"] = *snapshot.icount;
    }
    return result;
}

Json layer_json(const Layer& layer) {
    Json result = {
        {"filename", layer.file}, {"format", layer.format}, {"virtual-size", layer.size}};
    if (layer.on_disk) {
        result["actual-size"] = *layer.on_disk;
    }
    result["dirty-flag"] = layer.about.dirty;
    if (layer.about.encrypted) {
        result["encrypted"] = true;
    }
    if (layer.about.cluster_size != 0) {
        result["cluster-size"] = layer.about.cluster_size;
    }
    if (!layer.about.backing_name.empty()) {
        result["backing-filename"] = layer.about.backing_name;
        if (!layer.backing_path.empty()) {
            result["full-backing-filename"] = layer.backing_path;
        }
        if (!layer.about.backing_format.empty()) {
            result["backing-filename-format"] = layer.about.backing_format;
        }
    }
    for (const block::SnapshotInfo& snapshot : layer.snapshots) {
        result["snapshots"].push_back(snapshot_json(snapshot));
    }
    if (!layer.about.specific.empty()) {
        result["format-specific"] = {{"type", layer.format},
                                     {"data", fields_json(layer.about.specific)}};
    }
    return result;
}

std::string layer_text(const Layer& layer) {
    std::string text =
        fmt::format("image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n",
                    layer.file, layer.format, human_size(layer.size), layer.size,
                    layer.on_disk ? human_size(*layer.on_disk) : "unavailable");
    text += layer.about.encrypted ? "encrypted: yes\n" : "";
    if (layer.about.cluster_size != 0) {
        text += fmt::format("cluster_size: {}\n", layer.about.cluster_size);
    }
    text += layer.about.dirty ? "cleanly shut down: no\n" : "";
    if (const std::string& backing = layer.about.backing_name; !backing.empty()) {
        text += fmt::format("backing file: {}", backing);
        text += backing == layer.backing_path ? "\n"
                : layer.backing_path.empty()
                    ? " (cannot determine actual path)\n"
                    : fmt::format(" (actual path: {})\n", layer.backing_path);
        if (!layer.about.backing_format.empty()) {
            text += fmt::format("backing file format: {}\n", layer.about.backing_format);
        }
    }
    if (!layer.snapshots.empty()) {
        text += snapshot_table(layer.snapshots);
    }
    if (!layer.about.specific.empty()) {
        text +=
            "Format specific information:\n" + fields_text(fields_json(layer.about.specific), 1);
    }
    return text;
}

Result<std::vector<Layer>> collect(Session& session, ImageSpec spec, bool chain, bool share) {
    std::vector<Layer> layers;
    std::set<std::string> seen;
    while (true) {
        if (!seen.insert(spec.text).second) {
            return failure(fmt::format("Backing file '{}' creates an infinite loop.", spec.text));
        }
        layers.push_back(STRATA_TRY(look(session, spec, share)));
        const Layer& layer = layers.back();
        if (!chain || layer.backing_path.empty()) {
            return layers;
        }
        spec = {layer.backing_path, std::nullopt, false};
        if (!layer.about.backing_format.empty()) {
            spec.format = layer.about.backing_format;
        }
    }
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const std::string file = STRATA_TRY(arguments.only());
    const bool json = STRATA_TRY(wants_json(arguments));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const bool chain = arguments.has("backing-chain");
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "format"));
    const auto layers = STRATA_TRY(collect(session, spec, chain, arguments.has("force-share")));
    std::string text;
    Json list = Json::array();
    for (const Layer& layer : layers) {
        text += (text.empty() ? "" : "\n") + layer_text(layer);
        list.push_back(layer_json(layer));
    }
    print(json ? json_text(chain ? list : list[0]) : text);
    return 0;
}

}  // namespace

const Command kInfo = {
    "info",
    "[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename",
    run};

}  // namespace strata::qemu_img
