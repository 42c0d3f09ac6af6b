// strata image relink: a chain whose files have moved: each layer is told where the one below is.
//
// Nothing is changed before the whole chain was found and looks right. What can be checked of a
// layer below is that it opens as the format that was recorded, that the chain does not come back
// to itself, and that its disk is no larger than the one above, which a chain of snapshots never
// is: names are all that relink changes.
#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "api/json.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostLayers = 200;

constexpr std::array kPositionals = {
    Positional{"FILE", "The chain's top image.", true, Completes::Files, ""}};
constexpr std::array kOptions = {
    kFormatOption,
    Option{"--search", 's', "FOLDER",
           "Where to look for layers that are not where they are said to be: after the folder of "
           "the image above.",
           Completes::Files, true},
    Option{"--absolute", 0, "", "Write whole paths; else they are relative to the image above."},
    Option{"--larger", 0, "", "A layer may be larger than the one above: that one was shrunk."},
    Option{"--dry-run", 0, "", "Say what would be changed."},
    kFollowOption};

struct Layer {
    std::string path, format;
    std::string old_name, new_name;  ///< of what lies below; empty: nothing does
    std::string below_format;
};

struct Below {
    bool in_place = false;  ///< where the image above says
    fs::path path;
};

/// Where the layer `name` of `above` is: where that says, else beside the image, else in a folder.
Result<Below> find_below(const std::string& above, const std::string& name,
                         std::span<const std::string_view> folders) {
    const fs::path folder = fs::path(above).parent_path();
    std::vector<fs::path> places = {folder / name, folder / fs::path(name).filename()};
    for (const std::string_view each : folders) {
        places.push_back(fs::path(each) / fs::path(name).filename());
    }
    std::error_code code;  // what cannot be looked at is not there
    for (const fs::path& place : places) {
        if (fs::exists(place, code) && !fs::is_directory(place, code)) {
            return Below{&place == places.data(), place};
        }
    }
    return Error{ErrorKind::NotFound,
                 fmt::format("'{}' lies over '{}', which is neither there nor in a folder that was "
                             "named (--search FOLDER)",
                             above, name)};
}

Result<> check_format(const Layer& layer) {
    if (layer.below_format.empty()) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("'{}' does not tell the format of '{}': strata image rebase "
                                 "--name-only -F FORMAT",
                                 layer.path, layer.old_name)};
    }
    return ok();
}

std::string name_for(const std::string& above, const fs::path& below, bool absolute) {
    std::error_code code;
    const fs::path whole = fs::absolute(below, code).lexically_normal();
    if (absolute) {
        return whole.string();
    }
    const fs::path folder = fs::absolute(fs::path(above), code).parent_path().lexically_normal();
    return whole.lexically_relative(folder).string();
}

Result<> check_new(const std::vector<Layer>& chain, const std::string& path) {
    std::error_code code;  // what is not there is nobody's file
    const bool again = std::ranges::any_of(
        chain, [&](const Layer& each) { return fs::equivalent(each.path, path, code); });
    if (again || chain.size() >= kMostLayers) {
        return Error{ErrorKind::Failed,
                     fmt::format("'{}' is in the chain already, or that has more than {} layers",
                                 path, kMostLayers)};
    }
    return ok();
}

/// The chain from the top; each layer is opened by itself.
Result<std::vector<Layer>> walk(ImageTool& tool, const Arguments& arguments) {
    std::vector<Layer> chain;
    std::string path(*arguments.positional(0)), format(arguments.value("--format").value_or(""));
    std::uint64_t above = ~0ULL;
    while (!path.empty()) {
        STRATA_TRY_VOID(check_new(chain, path));
        auto opened = format.empty()
                          ? tool.open(arguments, path, {.backing = false, .key = false})
                          : tool.open_as(path, format, false, {.backing = false, .key = false});
        block::NodePtr node = STRATA_TRY(std::move(opened));
        if (node->size() > above && !arguments.flag("--larger")) {
            return Error{ErrorKind::WrongState,
                         fmt::format("'{}' has {} bytes, more than the layer above it: is it the "
                                     "right file? Then say --larger",
                                     path, node->size())};
        }
        above = node->size();
        const block::FormatInfo info = STRATA_TRY(tool.run(node->info()));
        STRATA_TRY_VOID(tool.close(node));
        Layer layer;
        layer.path = path;
        layer.format = format;
        layer.old_name = info.backing_name;
        layer.below_format = info.backing_format;
        path.clear();
        layer.new_name = layer.old_name;
        // What lies below on a server has not moved with the files.
        if (!layer.old_name.empty() && !block::is_location(layer.old_name)) {
            STRATA_TRY_VOID(check_format(layer));
            const Below below =
                STRATA_TRY(find_below(layer.path, layer.old_name, arguments.values("--search")));
            const bool absolute = arguments.flag("--absolute");
            if (absolute || !below.in_place) {
                layer.new_name = name_for(layer.path, below.path, absolute);
            }
            path = below.path.string();
            format = layer.below_format;
        }
        chain.push_back(std::move(layer));
    }
    return chain;
}

Result<int> run_relink(const Arguments& arguments) {
    if (!arguments.flag("--follow")) {
        return Error{ErrorKind::PermissionDenied,
                     "a chain's layers are opened, as its images name them: if they are trusted, "
                     "say --follow"};
    }
    ImageTool tool = STRATA_TRY(ImageTool::start());
    std::vector<Layer> chain = STRATA_TRY(walk(tool, arguments));
    api::Json list = api::Json::array();
    std::string text;
    // From the bottom: a chain that is cut short here is right as far as it was done.
    std::ranges::reverse(chain);
    for (const Layer& layer : chain) {
        if (layer.new_name == layer.old_name) {
            continue;
        }
        if (!arguments.flag("--dry-run")) {
            block::NodePtr node = STRATA_TRY(tool.open_as(
                layer.path, layer.format, false, {.write = true, .backing = false, .key = false}));
            STRATA_TRY_VOID(
                tool.run(node->change_backing(nullptr, layer.new_name, layer.below_format)));
            STRATA_TRY_VOID(tool.close(node));
        }
        list.push_back({{"file", layer.path}, {"was", layer.old_name}, {"is", layer.new_name}});
        text += fmt::format("{}: '{}' is '{}'\n", layer.path, layer.old_name, layer.new_name);
    }
    print_out(arguments.flag("--json") ? api::dump_json_pretty(list) : text);
    return 0;
}

}  // namespace

const Command kImageRelinkCommand = {
    .name = "image relink",
    .summary = "Tell the layers of a chain whose files have moved where the others are",
    .description =
        "Looks for each layer where the one above says, then beside that one, then in "
        "the folders that are named. Changes names alone, and only if all were found.",
    .positionals = kPositionals,
    .options = kOptions,
    .examples = "  strata image relink -f qcow2 --follow top.qcow2 --search /new/base\n",
    .run = run_relink,
};

}  // namespace strata::cli
