// strata image amend: changes an image's own options where it lies.
#include <algorithm>
#include <array>
#include <string>

#include <fmt/format.h>

#include "base/text.h"
#include "block/amend.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kPositionals = {Positional{"FILE", "The image.", false, Completes::Files, ""}};
constexpr std::array kOptions = {
    kFormatOption,
    Option{"--option", 'o', "NAME=VALUE[,…]", "What to change; 'help' lists what the format can.",
           Completes::Nothing, true},
    Option{"--force", 0, "",
           "Also what may make the content unreadable for good, such as erasing the last key."},
    kFollowOption,
    kPassphraseOption,
    Option{"--new-passphrase-file", 0, "FILE", "The passphrase of a key to add: its first line.",
           Completes::Files},
};

Result<int> list_options(std::string_view format) {
    (void)STRATA_TRY(block::find_format(format));
    const auto known = block::amend_options(format);
    if (known.empty()) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("{} images have no options that can be changed", format)};
    }
    for (const block::CreateOption& option : known) {
        print_out(fmt::format("{:<22} {}\n", option.name, option_help(option)));
    }
    return 0;
}

Result<int> run_amend(const Arguments& arguments) {
    if (arguments.value("--option") == "help" && arguments.value("--format")) {
        return list_options(*arguments.value("--format"));
    }
    block::AmendRequest request;
    request.options = STRATA_TRY(option_lists(arguments.values("--option")));
    const std::string prefix = arguments.value("--format") == "luks" ? "" : "encrypt.";
    const std::string added = STRATA_TRY(passphrase_of(arguments, "--new-passphrase-file"));
    if (!added.empty()) {
        request.options.insert(request.options.end(),
                               {{prefix + "state", "active"}, {prefix + "new-secret", added}});
    }
    if (request.options.empty()) {
        return Error{ErrorKind::InvalidArgument,
                     "what to change? -o NAME=VALUE; -f FORMAT -o help lists the names"};
    }
    if (!arguments.positional(0)) {
        return Error{ErrorKind::InvalidArgument, "which image? Its file comes last"};
    }
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string passphrase = STRATA_TRY(passphrase_of(arguments));
    const bool keys = arguments.value("--format") == "luks" ||
                      std::ranges::any_of(request.options, [](const auto& each) {
                          return each.first.starts_with("encrypt.");
                      });
    block::NodePtr node =
        STRATA_TRY(tool.open(arguments, *arguments.positional(0),
                             {.write = true, .key = keys, .passphrase = passphrase}));
    request.force = arguments.flag("--force");
    api::Json changed = api::Json::array();
    for (const auto& [name, value] : request.options) {
        changed.push_back(name);  // and not the value, which may be a passphrase
    }
    STRATA_TRY_VOID(tool.run(block::amend_image(node, std::move(request))));
    STRATA_TRY_VOID(tool.close(node));
    print_result(arguments, {{"file", *arguments.positional(0)}, {"changed", changed}});
    notice(fmt::format("image '{}' is changed", *arguments.positional(0)));
    return 0;
}

}  // namespace

const Command kImageAmendCommand = {
    .name = "image amend",
    .summary = "Change the options of a disk image where it lies",
    .description = "The disk reads the same before, after, and should the machine stop on the way.",
    .positionals = kPositionals,
    .options = kOptions,
    .examples =
        "  strata image amend -f qcow2 -o compat=0.10 disk.qcow2\n"
        "  strata image amend -f qcow2 --passphrase-file old.txt --new-passphrase-file new.txt "
        "disk.qcow2\n"
        "  strata image amend -f qcow2 -o help",
    .run = run_amend,
};

}  // namespace strata::cli
