// strata image info, check, map, compare: what an image is, and whether it is well.
#include <array>
#include <string>

#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "block/jobs/compare.h"
#include "block/jobs/extents.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"
#include "qemu_img/json_text.h"

namespace strata::cli {
namespace {

using api::Json;

constexpr int kDifferent = 1;

constexpr std::array kImage = {Positional{"FILE", "The image.", true, Completes::Files, ""}};
constexpr std::array kTwoImages = {
    Positional{"FIRST", "An image.", true, Completes::Files, ""},
    Positional{"SECOND", "The image to compare it with.", true, Completes::Files, ""}};

constexpr std::array kInfoOptions = {Option{
    "--format", 'f', "FORMAT", "The image's format; without it info says what the file looks like.",
    Completes::Formats}};
constexpr std::array kCheckOptions = {
    kFormatOption, Option{"--repair", 'r', "leaks|all", "Mend what is found.", Completes::Choices},
    kFollowOption};
constexpr std::array kMapOptions = {kFormatOption, kFollowOption};
constexpr std::array kCompareOptions = {
    kFormatOption,
    Option{"--second-format", 'F', "FORMAT", "The second image's format.", Completes::Formats},
    Option{"--strict", 's', "", "Sizes and allocation must be the same too."},
    kPassphraseOption,
    Option{"--second-passphrase-file", 0, "FILE",
           "The second image's passphrase, if it is another: the first line of this file.",
           Completes::Files},
    kBackingPassphraseOption,
    kFollowOption};

Result<Json> info_of(ImageTool& tool, block::Node& node) {
    const block::FormatInfo about = STRATA_TRY(tool.run(node.info()));
    const auto on_disk = tool.run(node.allocated_bytes());
    Json result = {{"file", node.name()}, {"format", node.format()}, {"size", node.size()}};
    if (on_disk.ok()) {
        result["on_disk"] = on_disk.value();
    }
    if (about.cluster_size != 0) {
        result["cluster_size"] = about.cluster_size;
    }
    if (!about.backing_name.empty()) {
        result["backing"] = {{"file", about.backing_name}, {"format", about.backing_format}};
    }
    if (!about.data_file.empty()) {
        result["data_file"] = about.data_file;
    }
    result["encrypted"] = about.encrypted;
    result["closed_cleanly"] = !about.dirty;
    if (!about.specific.empty()) {
        result["details"] = qemu_img::fields_json(about.specific);
    }
    auto snapshots = tool.run(node.snapshots());
    for (const block::SnapshotInfo& one :
         snapshots.ok() ? snapshots.value() : std::vector<block::SnapshotInfo>()) {
        result["snapshots"].push_back({{"id", one.id},
                                       {"name", one.name},
                                       {"vm_state_size", one.vm_state_size},
                                       {"time", one.date_seconds}});
    }
    return result;
}

std::string info_text(const Json& info, const std::string& indent) {
    std::string text;
    for (const auto& item : info.items()) {
        const Json& value = item.value();
        const bool bytes =
            item.key() == "size" || item.key() == "on_disk" || item.key() == "cluster_size";
        if (value.is_structured()) {
            text += fmt::format("{}{}\n{}", indent, item.key(), info_text(value, indent + "  "));
        } else if (bytes) {
            text +=
                fmt::format("{}{:<{}} {} ({})\n", indent, item.key(), 20 - indent.size(),
                            format_size(value.get<std::uint64_t>()), value.get<std::uint64_t>());
        } else {
            text +=
                fmt::format("{}{:<{}} {}\n", indent, item.key(), 20 - indent.size(),
                            value.is_string() ? value.get<std::string>() : api::dump_json(value));
        }
    }
    return text;
}

Result<int> run_info(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string path(*arguments.positional(0));
    std::string format(arguments.value("--format").value_or(""));
    if (format.empty()) {
        block::NodePtr file = STRATA_TRY(tool.open_as(path, "file", false, {.lock = false}));
        format = STRATA_TRY(tool.run(block::probe_format(*file)));
        STRATA_TRY_VOID(tool.close(file));
        notice(
            fmt::format("'{}' looks like {}; a guest can make a raw disk look like anything, so "
                        "say -f if you know",
                        path, format));
    }
    block::NodePtr node =
        STRATA_TRY(tool.open_as(path, format, false, {.backing = false, .lock = false}));
    const Json info = STRATA_TRY(info_of(tool, *node));
    print_out(arguments.flag("--json") ? api::dump_json_pretty(info) : info_text(info, ""));
    return 0;
}

Json check_json(const block::CheckReport& report) {
    return {{"clean", report.clean()},
            {"errors", report.check_errors},
            {"corruptions", report.corruptions},
            {"leaks", report.leaks},
            {"corruptions_fixed", report.corruptions_fixed},
            {"leaks_fixed", report.leaks_fixed},
            {"clusters", report.total_clusters},
            {"allocated", report.allocated_clusters},
            {"compressed", report.compressed_clusters},
            {"fragmented", report.fragmented_clusters},
            {"end_offset", report.image_end_offset},
            {"findings", report.messages}};
}

Result<int> run_check(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const auto repair = arguments.value("--repair");
    const auto mode = !repair            ? block::Repair::Nothing
                      : *repair == "all" ? block::Repair::All
                                         : block::Repair::Leaks;
    block::NodePtr node =
        STRATA_TRY(tool.open(arguments, *arguments.positional(0),
                             {.write = repair.has_value(), .backing = false, .check = true}));
    const block::CheckReport report = STRATA_TRY(tool.run(node->check(mode)));
    STRATA_TRY_VOID(tool.close(node));
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(check_json(report)));
    } else {
        for (const std::string& message : report.messages) {
            print_out(message + "\n");
        }
        print_out(
            fmt::format("{}: {} corruptions, {} leaked clusters, {} places that could not be "
                        "looked at; mended: {} corruptions, {} leaks\n",
                        report.clean() ? "clean" : "damaged", report.corruptions, report.leaks,
                        report.check_errors, report.corruptions_fixed, report.leaks_fixed));
    }
    return report.corruptions + report.check_errors == 0 ? 0 : exit_status(ErrorKind::Failed);
}

std::string map_line(const block::MapEntry& entry) {
    const std::string_view kind = entry.data      ? (entry.compressed ? "compressed" : "data")
                                  : entry.present ? "zero"
                                                  : "hole";
    return fmt::format("{:>14x} {:>14x}  {:<10} {:>5}  {}\n", entry.start, entry.length, kind,
                       entry.depth,
                       entry.has_offset && entry.file != nullptr
                           ? fmt::format("{:x} in {}", entry.offset, entry.file->name())
                           : "");
}

Result<int> run_map(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const bool json = arguments.flag("--json");
    block::NodePtr node =
        STRATA_TRY(tool.open(arguments, *arguments.positional(0), {.key = false, .lock = false}));
    std::string text = json ? "["
                            : fmt::format("{:>14} {:>14}  {:<10} {:>5}  {}\n", "START", "LENGTH",
                                          "KIND", "LAYER", "WHERE");
    bool first = true;
    const auto visit = [&](const block::MapEntry& entry) {
        if (!json) {
            text += map_line(entry);
        } else {
            Json one = {{"start", entry.start},
                        {"length", entry.length},
                        {"layer", entry.depth},
                        {"data", entry.data},
                        {"present", entry.present}};
            if (entry.has_offset) {
                one["offset"] = entry.offset;
            }
            text +=
                fmt::format("{}\n{}", std::exchange(first, false) ? "" : ",", api::dump_json(one));
        }
        print_out(std::exchange(text, ""));
    };
    STRATA_TRY_VOID(tool.run(block::map_image(*node, 0, node->size(), visit)));
    print_out(text + (json ? "\n]\n" : ""));
    return 0;
}

Result<int> run_compare(const Arguments& arguments) {
    ImageTool tool = STRATA_TRY(ImageTool::start());
    block::NodePtr first = STRATA_TRY(tool.open(arguments, *arguments.positional(0), {}));
    const auto format = arguments.value("--second-format");
    ImageAccess access;
    access.passphrase = STRATA_TRY(passphrase_of(
        arguments, arguments.value("--second-passphrase-file") ? "--second-passphrase-file"
                                                               : "--passphrase-file"));
    access.backing_passphrase = STRATA_TRY(passphrase_of(arguments, "--backing-passphrase-file"));
    block::NodePtr second =
        format ? STRATA_TRY(tool.open_as(*arguments.positional(1), *format,
                                         arguments.flag("--follow"), access))
               : STRATA_TRY(tool.open(arguments, *arguments.positional(1), access));
    ProgressBar bar("compare", !arguments.flag("--quiet"));
    const auto result = STRATA_TRY(tool.run(
        block::compare_images(*first, *second, arguments.flag("--strict"), bar.control())));
    using Verdict = block::Comparison::Verdict;
    const bool same = result.verdict == Verdict::Same;
    const std::string_view what = same                                ? "same"
                                  : result.verdict == Verdict::Size   ? "size"
                                  : result.verdict == Verdict::Status ? "allocation"
                                                                      : "content";
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(Json{{"same", same},
                                             {"difference", what},
                                             {"offset", result.offset},
                                             {"sizes_differ", result.sizes_differ}}));
    } else {
        print_out(same
                      ? fmt::format("same{}\n", result.sizes_differ
                                                    ? ", but for zeros at the end of the longer one"
                                                    : "")
                      : fmt::format("different: {}, first at byte {}\n", what, result.offset));
    }
    return same ? 0 : kDifferent;
}

}  // namespace

const Command kImageInfoCommand = {
    .name = "image info",
    .summary = "Show what a disk image is",
    .description = "Opens the image's own file and nothing else.",
    .positionals = kImage,
    .options = kInfoOptions,
    .examples = "  strata image info disk.qcow2",
    .run = run_info,
};

const Command kImageCheckCommand = {
    .name = "image check",
    .summary = "Check a disk image's metadata, and mend it",
    .description =
        "Leaks waste space and harm nothing; corruptions lose data. Ends with 1 if corruptions are "
        "left.",
    .positionals = kImage,
    .options = kCheckOptions,
    .examples =
        "  strata image check -f qcow2 disk.qcow2\n  strata image check -f qcow2 -r leaks "
        "disk.qcow2",
    .run = run_check,
};

const Command kImageMapCommand = {
    .name = "image map",
    .summary = "Show which parts of a disk image hold data, and where",
    .description = "",
    .positionals = kImage,
    .options = kMapOptions,
    .examples = "  strata image map -f qcow2 --follow overlay.qcow2",
    .run = run_map,
};

const Command kImageCompareCommand = {
    .name = "image compare",
    .summary = "Compare what two disk images hold",
    .description = "Ends with 0 if a guest would read the same from both, 1 if not.",
    .positionals = kTwoImages,
    .options = kCompareOptions,
    .examples = "  strata image compare -f qcow2 -F raw disk.qcow2 disk.raw",
    .run = run_compare,
};

}  // namespace strata::cli
