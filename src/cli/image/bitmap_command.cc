// strata image bitmap: the persistent dirty bitmaps of an image.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "block/bitmap.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::uint64_t kGranularity = 65536;

constexpr std::array kPositionals = {
    Positional{"ACTION", "What to do.", true, Completes::Choices,
               "list|add|remove|clear|enable|disable|merge"},
    Positional{"FILE", "The image.", true, Completes::Files, ""},
    Positional{"NAME", "The bitmap.", false, Completes::Nothing, ""},
    Positional{"SOURCE", "merge: the bitmap to take in.", false, Completes::Nothing, ""}};

constexpr std::array kOptions = {
    kFormatOption, kPassphraseOption,
    Option{"--granularity", 'g', "SIZE", "add: bytes a bit stands for (default 64k).",
           Completes::Nothing},
    Option{"--source-file", 'b', "FILE",
           "merge: the image that SOURCE is in, if it is another one.", Completes::Files},
    Option{"--source-format", 'F', "FORMAT", "merge: its format.", Completes::Formats}};

Result<int> list(ImageTool& tool, block::Node& node, bool as_json) {
    api::Json all = api::Json::array();
    std::string table =
        fmt::format("{:<24} {:>11} {:<10} {:>10}\n", "NAME", "GRANULARITY", "STATE", "DIRTY");
    for (const block::BitmapInfo& one : STRATA_TRY(tool.run(node.bitmaps()))) {
        const std::string_view state = one.in_use ? "broken" : one.automatic ? "recording" : "idle";
        std::uint64_t dirty = node.size();  // of a broken one everything counts as dirty
        if (!one.in_use) {
            const block::Bitmap bitmap = STRATA_TRY(tool.run(node.read_bitmap(one.name)));
            dirty = block::dirty_bytes(bitmap);
        }
        all.push_back({{"name", one.name},
                       {"granularity", one.granularity},
                       {"state", state},
                       {"dirty", dirty}});
        table += fmt::format("{:<24} {:>11} {:<10} {:>10}\n", one.name,
                             format_size(one.granularity), state, format_size(dirty));
    }
    print_out(as_json ? api::dump_json_pretty(all) : table);
    return 0;
}

Result<> add(ImageTool& tool, block::Node& node, const std::string& name,
             const Arguments& arguments) {
    const std::uint64_t granularity = STRATA_TRY(
        parse_size(arguments.value("--granularity").value_or(std::to_string(kGranularity))));
    const auto known = STRATA_TRY(tool.run(node.bitmaps()));
    if (std::any_of(known.begin(), known.end(),
                    [&](const block::BitmapInfo& each) { return each.name == name; })) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("'{}' has a bitmap '{}' already", node.name(), name)};
    }
    if (!std::has_single_bit(granularity) || granularity < 512) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("a granularity of {} bytes is no power of two from 512 on", granularity)};
    }
    return tool.run(node.store_bitmap(block::empty_bitmap(name, node.size(), granularity, true)));
}

Result<> merge(ImageTool& tool, block::Node& node, const std::string& name,
               const Arguments& arguments) {
    const auto source = arguments.positional(3);
    if (!source) {
        return Error{ErrorKind::InvalidArgument,
                     "which bitmap is to be merged? Its name comes last"};
    }
    block::Bitmap into = STRATA_TRY(tool.run(node.read_bitmap(name)));
    block::NodePtr other;
    if (const auto file = arguments.value("--source-file")) {
        const auto format = arguments.value("--source-format");
        if (!format) {
            return Error{ErrorKind::InvalidArgument,
                         "--source-file needs --source-format (-F qcow2): it is never guessed"};
        }
        other = STRATA_TRY(tool.open_as(*file, *format, false, {.backing = false}));
    }
    const block::Bitmap from =
        STRATA_TRY(tool.run((other != nullptr ? *other : node).read_bitmap(std::string(*source))));
    STRATA_TRY_VOID(tool.close(other));
    if (from.size != into.size) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("'{}' is for {} bytes of disk, '{}' for {}", *source, from.size,
                                 name, into.size)};
    }
    block::merge_bits(into, from);
    return tool.run(node.store_bitmap(std::move(into)));
}

Result<> change(ImageTool& tool, block::Node& node, const std::string& name,
                std::string_view action) {
    if (action == "remove") {
        return tool.run(node.remove_bitmap(name));
    }
    block::Bitmap bitmap = STRATA_TRY(tool.run(node.read_bitmap(name)));
    if (action == "clear") {
        std::fill(bitmap.bits.begin(), bitmap.bits.end(), 0U);
    } else {
        bitmap.info.automatic = action == "enable";
    }
    return tool.run(node.store_bitmap(std::move(bitmap)));
}

Result<int> run_bitmap(const Arguments& arguments) {
    const std::string_view action = *arguments.positional(0);
    constexpr std::array<std::string_view, 7> kActions = {"list",   "add",     "remove", "clear",
                                                          "enable", "disable", "merge"};
    if (std::find(kActions.begin(), kActions.end(), action) == kActions.end()) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}': use list, add, remove, clear, enable, disable or merge", action)};
    }
    const std::string name(arguments.positional(2).value_or(""));
    if (action != "list" && name.empty()) {
        return Error{ErrorKind::InvalidArgument, "which bitmap? Its name comes after the file"};
    }
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string passphrase = STRATA_TRY(passphrase_of(arguments));
    block::NodePtr node = STRATA_TRY(
        tool.open(arguments, *arguments.positional(1),
                  {.write = action != "list", .backing = false, .passphrase = passphrase}));
    if (action == "list") {
        return list(tool, *node, arguments.flag("--json"));
    }
    if (action == "add") {
        STRATA_TRY_VOID(add(tool, *node, name, arguments));
    } else if (action == "merge") {
        STRATA_TRY_VOID(merge(tool, *node, name, arguments));
    } else {
        STRATA_TRY_VOID(change(tool, *node, name, action));
    }
    STRATA_TRY_VOID(tool.close(node));
    print_result(arguments,
                 {{"file", *arguments.positional(1)}, {"action", action}, {"bitmap", name}});
    return 0;
}

}  // namespace

const Command kImageBitmapCommand = {
    .name = "image bitmap",
    .summary = "List, add, remove or change the dirty bitmaps inside an image",
    .description =
        "A bitmap that records marks what is written to the disk, for backups of what changed. One "
        "that was in use when its image was not closed is "
        "broken: take everything for dirty, and remove it.",
    .positionals = kPositionals,
    .options = kOptions,
    .examples =
        "  strata image bitmap add -f qcow2 disk.qcow2 since-monday\n"
        "  strata image bitmap list -f qcow2 disk.qcow2",
    .run = run_bitmap,
};

}  // namespace strata::cli
