// strata image create: an empty disk image of any format that can be written.
#include <array>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kPositionals = {
    Positional{"FILE", "The image to make; what it was is lost.", true, Completes::Files, ""},
    Positional{"SIZE", "Of the disk, e.g. 10G; with a backing file its size if left out.", false,
               Completes::Nothing, ""}};

constexpr std::array kOptions = {
    Option{"--format", 'f', "FORMAT", "The image's format (default raw).", Completes::NewFormats},
    Option{"--option", 'o', "NAME=VALUE[,…]", "Of the format; 'help' lists them.",
           Completes::Nothing, true},
    Option{"--backing", 'b', "FILE",
           "What the image does not hold is read from there; relative to the image's folder.",
           Completes::Files},
    Option{"--backing-format", 'F', "FORMAT", "The backing file's format.", Completes::Formats},
    Option{"--passphrase-file", 0, "FILE",
           "Encrypt (qcow2 and luks): the passphrase is the first line of this file.",
           Completes::Files},
    Option{"--follow", 0, "",
           "Open the files that the backing file names, too: only if it is trusted."},
};

int list_options(const block::FormatDriver& driver) {
    for (const block::CreateOption& option : driver.create_options) {
        print_out(fmt::format(
            "{:<22} {}{}\n", option.name, option_help(option),
            option.fallback.empty() ? "" : fmt::format(" (default {})", option.fallback)));
    }
    return 0;
}

/// The size of the backing image, which must open, and must not be what is to be made; nor, as far
/// as it may be looked at, the layers below.
Result<std::uint64_t> backing_size(ImageTool& tool, const std::string& image,
                                   std::string_view backing, std::string_view format, bool follow) {
    const std::string below = (std::filesystem::path(image).parent_path() / backing).string();
    block::NodePtr node = STRATA_TRY(
        tool.open_as(below, format, follow, {.backing = follow, .key = false, .lock = false}));
    STRATA_TRY_VOID(check_apart(*node, image));
    const std::string next = STRATA_TRY(tool.run(node->info())).backing_name;
    std::error_code code;  // what is not there is nobody's file
    if (!next.empty() && std::filesystem::equivalent(
                             std::filesystem::path(below).parent_path() / next, image, code)) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("'{}' is the backing file of '{}'", image, below)};
    }
    const std::uint64_t size = node->size();
    STRATA_TRY_VOID(tool.close(node));
    return size;
}

Result<int> run_create(const Arguments& arguments) {
    const std::string path(*arguments.positional(0));
    const std::string_view format = arguments.value("--format").value_or("raw");
    const block::FormatDriver* driver = STRATA_TRY(block::find_format(format));
    if (arguments.value("--option") == "help") {
        return list_options(*driver);
    }
    ImageTool tool = STRATA_TRY(ImageTool::start());
    block::OptionList options;
    std::optional<std::uint64_t> size;
    if (const auto backing = arguments.value("--backing")) {
        const auto below = arguments.value("--backing-format");
        if (!below) {
            return Error{
                ErrorKind::InvalidArgument,
                "--backing needs --backing-format (-F raw, -F qcow2 …): it is never guessed"};
        }
        size = STRATA_TRY(backing_size(tool, path, *backing, *below, arguments.flag("--follow")));
        options = {{"backing_file", std::string(*backing)}, {"backing_fmt", std::string(*below)}};
    }
    const std::string passphrase = STRATA_TRY(passphrase_of(arguments));
    const block::OptionList encryption = encryption_options(format, passphrase);
    options.insert(options.end(), encryption.begin(), encryption.end());
    if (const auto text = arguments.positional(1)) {
        size = STRATA_TRY(parse_size(*text));
    }
    if (!size) {
        return Error{ErrorKind::InvalidArgument, "which size? e.g. 10G"};
    }
    const block::OptionList more = STRATA_TRY(option_lists(arguments.values("--option")));
    options.insert(options.end(), more.begin(), more.end());
    STRATA_TRY_VOID(tool.create(format, {path, *size, std::move(options)}));
    notice(fmt::format("image '{}': {}, {}", path, format, format_size(*size)));
    print_result(arguments, {{"file", path}, {"format", format}, {"size", *size}});
    return 0;
}

}  // namespace

const Command kImageCreateCommand = {
    .name = "image create",
    .summary = "Make an empty disk image",
    .description = "",
    .positionals = kPositionals,
    .options = kOptions,
    .examples =
        "  strata image create -f qcow2 disk.qcow2 20G\n"
        "  strata image create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2\n"
        "  strata image create -f qcow2 --passphrase-file key.txt secret.qcow2 20G\n"
        "  strata image create -f vmdk -o help new.vmdk",
    .run = run_create,
};

}  // namespace strata::cli
