// strata image resize, snapshot, commit, rebase: changes to an image where it lies.
#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "block/jobs/chains.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kImage = {Positional{"FILE", "The image.", true, Completes::Files, ""}};
constexpr std::array kResizePositionals = {
    Positional{"FILE", "The image.", true, Completes::Files, ""},
    Positional{"SIZE", "20G, or +5G to add.", true, Completes::Nothing, ""}};
constexpr std::array kSnapshotPositionals = {
    Positional{"ACTION", "What to do.", true, Completes::Choices, "list|create|apply|delete"},
    Positional{"FILE", "The image.", true, Completes::Files, ""},
    Positional{"NAME", "The snapshot: its name, or its id.", false, Completes::Nothing, ""}};

constexpr std::array kResizeOptions = {
    kFormatOption, Option{"--shrink", 0, "", "Let it become smaller: what lies beyond is lost."},
    kPassphraseOption, kBackingPassphraseOption, kFollowOption};
constexpr std::array kSnapshotOptions = {kFormatOption, kFollowOption};
constexpr std::array kCommitOptions = {
    kFormatOption, Option{"--keep", 0, "", "Leave the overlay's content where it is, too."},
    kPassphraseOption, kBackingPassphraseOption, kFollowOption};
constexpr std::array kRebaseOptions = {
    kFormatOption,
    Option{"--backing", 'b', "FILE",
           "The new backing file, relative to the image's folder; \"\" makes it independent.",
           Completes::Files},
    Option{"--backing-format", 'F', "FORMAT", "Its format.", Completes::Formats},
    Option{"--name-only", 'u', "",
           "Change the name and nothing else: the file has moved, its content is the same."},
    kPassphraseOption,
    kBackingPassphraseOption,
    kFollowOption};

Result<std::uint64_t> new_size(std::string_view text, std::uint64_t now) {
    const bool relative = text.starts_with('+');
    const std::uint64_t bytes = STRATA_TRY(parse_size(relative ? text.substr(1) : text));
    if (bytes > (1ULL << 62)) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("a size of {} bytes is too large", bytes)};
    }
    return relative ? now + bytes : bytes;
}

Result<int> run_resize(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    block::NodePtr node =
        STRATA_TRY(tool.open(arguments, *arguments.positional(0), {.write = true, .key = false}));
    const std::uint64_t before = node->size();
    const std::uint64_t size = STRATA_TRY(new_size(*arguments.positional(1), node->size()));
    if (size < node->size() && !arguments.flag("--shrink")) {
        return Error{ErrorKind::WrongState,
                     fmt::format("'{}' has {}: {} is less, and what lies beyond would be lost; if "
                                 "that is meant, say --shrink",
                                 node->name(), format_size(node->size()), format_size(size))};
    }
    STRATA_TRY_VOID(tool.run(node->resize(size, block::Preallocation::Off)));
    notice(fmt::format("image '{}': {}", node->name(), format_size(size)));
    const api::Json result = {
        {"file", node->name()}, {"size", node->size()}, {"size_before", before}};
    STRATA_TRY_VOID(tool.close(node));
    print_result(arguments, result);
    return 0;
}

Result<int> list_snapshots(ImageTool& tool, block::Node& node, bool as_json) {
    api::Json list = api::Json::array();
    std::string table = fmt::format("{:<6} {:<24} {:>10} {:>10}\n", "ID", "NAME", "DISK", "MEMORY");
    for (const block::SnapshotInfo& one : STRATA_TRY(tool.run(node.snapshots()))) {
        list.push_back({{"id", one.id},
                        {"name", one.name},
                        {"disk_size", one.disk_size},
                        {"vm_state_size", one.vm_state_size},
                        {"time", one.date_seconds}});
        table += fmt::format("{:<6} {:<24} {:>10} {:>10}\n", one.id, one.name,
                             format_size(one.disk_size), format_size(one.vm_state_size));
    }
    print_out(as_json ? api::dump_json_pretty(list) : table);
    return 0;
}

/// Its id.
Result<std::string> create_snapshot(ImageTool& tool, block::Node& node, const std::string& name) {
    const auto known = STRATA_TRY(tool.run(node.snapshots()));
    if (std::ranges::find(known, name, &block::SnapshotInfo::name) != known.end()) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("'{}' has a snapshot '{}' already", node.name(), name)};
    }
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    block::SnapshotInfo snapshot;
    snapshot.name = name;
    snapshot.date_seconds =
        static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
    snapshot.disk_size = node.size();
    std::string id = STRATA_TRY(tool.run(node.create_snapshot(snapshot)));
    notice(fmt::format("snapshot '{}' (id {}) of '{}'", name, id, node.name()));
    return id;
}

Result<int> run_snapshot(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string_view action = *arguments.positional(0);
    const std::string name(arguments.positional(2).value_or(""));
    if (action != "list" && action != "create" && action != "apply" && action != "delete") {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("'{}': use list, create, apply or delete", action)};
    }
    if (action != "list" && name.empty()) {
        return Error{ErrorKind::InvalidArgument, "which snapshot? Its name comes last"};
    }
    block::NodePtr node = STRATA_TRY(
        tool.open(arguments, *arguments.positional(1), {.write = action != "list", .key = false}));
    if (action == "list") {
        return list_snapshots(tool, *node, arguments.flag("--json"));
    }
    std::string id = tool.snapshot_id(*node, name);
    if (action == "create") {
        id = STRATA_TRY(create_snapshot(tool, *node, name));
    } else {
        STRATA_TRY_VOID(
            tool.run(action == "apply" ? node->apply_snapshot(id) : node->delete_snapshot(id)));
    }
    STRATA_TRY_VOID(tool.close(node));
    print_result(arguments, {{"file", *arguments.positional(1)}, {"action", action}, {"id", id}});
    return 0;
}

/// How a layer below is opened by itself.
Result<ImageAccess> layer_access(const Arguments& arguments, ImageAccess access) {
    access.passphrase = STRATA_TRY(passphrase_of(
        arguments, arguments.value("--backing-passphrase-file") ? "--backing-passphrase-file"
                                                                : "--passphrase-file"));
    return access;
}

Result<int> run_commit(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    block::NodePtr top = STRATA_TRY(
        tool.open(arguments, *arguments.positional(0), {.write = true, .free_backing = true}));
    const block::Node* base = top->backing();
    if (base == nullptr) {
        return Error{
            ErrorKind::WrongState,
            fmt::format("'{}' has no backing file{}", top->name(),
                        arguments.flag("--follow")
                            ? ""
                            : " that was opened; if it names one and is trusted, say --follow")};
    }
    const std::string below = base->name();
    const ImageAccess access = STRATA_TRY(layer_access(arguments, {.write = true}));
    block::NodePtr target = STRATA_TRY(tool.open_as(below, base->format(), true, access));
    ProgressBar bar("commit", !arguments.flag("--quiet"));
    STRATA_TRY_VOID(tool.run(
        block::commit_layers(*top, base, *target, bar.control(), !arguments.flag("--keep"))));
    STRATA_TRY_VOID(tool.close(target));
    if (!arguments.flag("--keep")) {
        Result<> emptied = tool.run(top->make_empty());
        if (!emptied.ok() && emptied.error().kind() != ErrorKind::NotSupported) {
            return emptied.error();
        }
    }
    STRATA_TRY_VOID(tool.close(top));
    notice(fmt::format("'{}' is in '{}' now", *arguments.positional(0), below));
    print_result(arguments, {{"file", *arguments.positional(0)},
                             {"into", below},
                             {"emptied", !arguments.flag("--keep")}});
    return 0;
}

/// The new backing layer, opened; null for none. It must not read from the overlay itself.
Result<block::NodePtr> open_backing(ImageTool& tool, const block::Node& overlay,
                                    const std::string& path, std::string_view format,
                                    const Arguments& arguments) {
    const ImageAccess access = STRATA_TRY(layer_access(arguments, {.lock = false}));
    block::NodePtr backing =
        STRATA_TRY(tool.open_as(path, format, arguments.flag("--follow"), access));
    STRATA_TRY_VOID(check_apart(*backing, overlay.name()));
    return backing;
}

Result<int> run_rebase(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const auto name = arguments.value("--backing");
    const std::string_view format = arguments.value("--backing-format").value_or("");
    const bool name_only = arguments.flag("--name-only");
    if (!name) {
        return Error{ErrorKind::InvalidArgument,
                     "which backing file? -b FILE, or -b \"\" for none"};
    }
    if (!name->empty() && format.empty()) {
        return Error{ErrorKind::InvalidArgument,
                     "--backing needs --backing-format (-F raw, -F qcow2 …): it is never guessed"};
    }
    block::NodePtr overlay = STRATA_TRY(
        tool.open(arguments, *arguments.positional(0),
                  {.write = true, .backing = !name_only, .free_backing = true, .key = !name_only}));
    const std::string path =
        (std::filesystem::path(overlay->name()).parent_path() / *name).string();
    std::error_code code;  // with --name-only it need not be there
    if (!name->empty() && std::filesystem::equivalent(path, overlay->name(), code)) {
        return Error{ErrorKind::InvalidArgument, fmt::format("'{}' is the image itself", *name)};
    }
    if (!name_only) {
        block::NodePtr backing;
        if (!name->empty()) {
            backing = STRATA_TRY(open_backing(tool, *overlay, path, format, arguments));
        }
        ProgressBar bar("rebase", !arguments.flag("--quiet"));
        STRATA_TRY_VOID(tool.run(block::absorb_difference(*overlay, overlay->backing(),
                                                          backing.get(), nullptr, bar.control())));
        STRATA_TRY_VOID(tool.close(backing));
    }
    STRATA_TRY_VOID(
        tool.run(overlay->change_backing(nullptr, std::string(*name), std::string(format))));
    STRATA_TRY_VOID(tool.close(overlay));
    print_result(arguments,
                 {{"file", *arguments.positional(0)},
                  {"backing",
                   name->empty() ? api::Json() : api::Json{{"file", *name}, {"format", format}}}});
    return 0;
}

}  // namespace

const Command kImageResizeCommand = {
    .name = "image resize",
    .summary = "Change the size of a disk image",
    .description = "The guest's partitions and file systems are not touched.",
    .positionals = kResizePositionals,
    .options = kResizeOptions,
    .examples = "  strata image resize -f qcow2 disk.qcow2 +10G",
    .run = run_resize,
};

const Command kImageSnapshotCommand = {
    .name = "image snapshot",
    .summary = "List, create, apply or delete the snapshots inside an image",
    .description = "",
    .positionals = kSnapshotPositionals,
    .options = kSnapshotOptions,
    .examples =
        "  strata image snapshot create -f qcow2 disk.qcow2 before-upgrade\n"
        "  strata image snapshot list -f qcow2 disk.qcow2",
    .run = run_snapshot,
};

const Command kImageCommitCommand = {
    .name = "image commit",
    .summary = "Write what an overlay holds into its backing file",
    .description = "",
    .positionals = kImage,
    .options = kCommitOptions,
    .examples = "  strata image commit -f qcow2 --follow overlay.qcow2",
    .run = run_commit,
};

const Command kImageRebaseCommand = {
    .name = "image rebase",
    .summary = "Give an overlay another backing file, or none",
    .description =
        "What reads differently over the new backing file is copied into the overlay first, so the "
        "disk reads as before.",
    .positionals = kImage,
    .options = kRebaseOptions,
    .examples =
        "  strata image rebase -f qcow2 --follow -b \"\" overlay.qcow2\n"
        "  strata image rebase -f qcow2 -u -b moved/base.qcow2 -F qcow2 overlay.qcow2",
    .run = run_rebase,
};

}  // namespace strata::cli
