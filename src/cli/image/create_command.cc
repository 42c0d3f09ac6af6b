// strata image create: an empty disk image, raw or qcow2.
#include <array>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/disk_files.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kPositionals = {
    Positional{"FILE", "The image to make; what it was is lost.", true, Completes::Files, ""},
    Positional{"SIZE", "Of the disk, e.g. 10G; with a backing file its size if left out.", false, Completes::Nothing, ""}};

constexpr std::array kOptions = {
    Option{"--format", 'f', "raw|qcow2", "The image's format (default raw).", Completes::Choices},
    Option{"--option", 'o', "NAME=VALUE[,…]", "qcow2: cluster_size, compat, refcount_bits, extended_l2, lazy_refcounts, compression_type.",
           Completes::Nothing, true},
    Option{"--backing", 'b', "FILE", "What the image does not hold is read from there; relative to the image's folder.", Completes::Files},
    Option{"--backing-format", 'F', "raw|qcow2", "The backing file's format.", Completes::Choices},
};

Result<int> run_create(const Arguments& arguments) {
    NewDisk disk;
    disk.path = *arguments.positional(0);
    disk.format = arguments.value("--format").value_or("raw");
    disk.backing = arguments.value("--backing").value_or("");
    disk.backing_format = arguments.value("--backing-format").value_or("");
    disk.options = arguments.values("--option");
    if (!disk.backing.empty()) {
        if (disk.backing_format.empty()) {
            return Error{ErrorKind::InvalidArgument, "--backing needs --backing-format (-F raw or -F qcow2): it is never guessed"};
        }
        const std::string below = (std::filesystem::path(disk.path).parent_path() / disk.backing).string();
        disk.size = STRATA_TRY(open_source(below, disk.backing_format, true))->size();
    }
    if (const auto size = arguments.positional(1)) {
        disk.size = STRATA_TRY(parse_size(*size));
    } else if (disk.backing.empty()) {
        return Error{ErrorKind::InvalidArgument, "which size? e.g. 10G"};
    }
    STRATA_TRY_VOID(make_disk(disk));
    notice(fmt::format("image '{}': {}, {}", disk.path, disk.format, format_size(disk.size)));
    return 0;
}

}  // namespace

const Command kImageCreateCommand = {
    .name = "image create",
    .summary = "Make an empty disk image",
    .description = "",
    .positionals = kPositionals,
    .options = kOptions,
    .examples = "  strata image create -f qcow2 disk.qcow2 20G\n"
                "  strata image create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2",
    .run = run_create,
};

}  // namespace strata::cli
