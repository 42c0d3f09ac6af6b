// Commands: the list of all verbs, the options they share, and the way from words to an exit
// status.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/log.h"
#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/command_list.h"
#include "cli/help.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kCommonOptions = {
    Option{"--help", 'h', "", "Print this and exit."},
    Option{"--json", 0, "",
           "Machine-readable output; errors become one JSON object on standard error."},
    Option{"--quiet", 'q', "", "No notices on standard error, only errors."},
    Option{"--log", 0, "error|warn|info|debug|trace",
           "How much is logged to standard error (default warn; also STRATA_LOG).",
           Completes::Choices},
};

constexpr std::array kCommands = {
    &kRunCommand,          &kMachineCommand,      &kDiskListCommand,      &kDiskResizeCommand,
    &kDiskLimitsCommand,   &kDiskMirrorCommand,   &kDiskBackupCommand,    &kDiskStreamCommand,
    &kDiskCommitCommand,   &kDiskSnapshotCommand, &kDiskEjectCommand,     &kDiskChangeCommand,
    &kJobCommand,          &kInfoCommand,         &kImageBuildCommand,    &kImageCreateCommand,
    &kImageConvertCommand, &kImageInfoCommand,    &kImageCheckCommand,    &kImageMapCommand,
    &kImageCompareCommand, &kImageResizeCommand,  &kImageSnapshotCommand, &kImageCommitCommand,
    &kImageRebaseCommand,  &kImageRelinkCommand,  &kImageCompactCommand,  &kImageDdCommand,
    &kImageServeCommand,   &kImageAmendCommand,   &kImageBitmapCommand,   &kImageMeasureCommand,
    &kImageBenchCommand,   &kImageListCommand,    &kImagePathCommand,     &kVersionCommand,
    &kCompletionCommand,   &kCompleteCommand,
};

// --log, or STRATA_LOG; left in the environment for the VMM process.
Result<> set_log_level(const Arguments& arguments) {
    const char* variable =
        std::getenv("STRATA_LOG");  // NOLINT(concurrency-mt-unsafe): before any thread
    const std::string level(arguments.value("--log").value_or(variable == nullptr ? "" : variable));
    if (level.empty()) {
        return ok();
    }
    if (!log::set_level(level)) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("log level '{}': use error, warn, info, debug or trace", level)};
    }
    (void)setenv("STRATA_LOG", level.c_str(),
                 1);  // NOLINT(concurrency-mt-unsafe): before any thread; only fails without memory
    return ok();
}

Result<int> dispatch(std::span<const std::string_view> words) {
    std::size_t used = 0;
    const Command* command = find_command(words, used);
    if (command == nullptr) {
        return unknown_command(words);
    }
    if (command == &kCompleteCommand) {
        return complete_words(words.subspan(used));  // takes its words as they are
    }
    const Arguments arguments = STRATA_TRY(Arguments::parse(*command, words.subspan(used)));
    if (arguments.flag("--help")) {
        print_out(help_of(*command));
        return 0;
    }
    set_quiet(arguments.flag("--quiet"));
    STRATA_TRY_VOID(set_log_level(arguments));
    return command->run(arguments);
}

bool asks_for_help(std::string_view word) {
    return word == "--help" || word == "-h" || word == "help";
}

// What `words`, without the asking, are about.
std::string help_about(std::span<const std::string_view> words) {
    std::size_t used = 0;
    const Command* command = find_command(words, used);
    if (command != nullptr) {
        return help_of(*command);
    }
    const std::string group = words.empty() ? "" : help_of_group(words[0]);
    return group.empty() ? overview() : group;
}

int run_words(std::span<const std::string_view> words, bool as_json) {
    if (words.empty()) {
        complain("which command? Here is the overview.");
        print_out(overview());
        return exit_status(ErrorKind::InvalidArgument);
    }
    if (asks_for_help(words[0])) {
        print_out(help_about(words.subspan(1)));
        return 0;
    }
    if (words.size() == 2 && asks_for_help(words[1]) && !help_of_group(words[0]).empty()) {
        print_out(help_about(words.first(1)));
        return 0;
    }
    const std::string_view version = "version";
    if (words[0] == "--version" || words[0] == "-V") {
        words = std::span(&version, 1);
    }
    auto status = dispatch(words);
    if (!status) {
        print_error(status.error(), as_json);
        return exit_status(status.error().kind());
    }
    return *status;
}

}  // namespace

std::span<const Option> common_options() {
    return kCommonOptions;
}
std::span<const Command* const> commands() {
    return kCommands;
}

int run_command_line(std::span<const std::string_view> words) {
    const auto end = std::ranges::find(words, "--");
    const bool as_json = std::find(words.begin(), end, "--json") != end;
    const int status = run_words(words, as_json);
    const int lost = output_errno();
    if (status != 0 || lost == 0) {
        return status;
    }
    if (lost != EPIPE) {  // a reader that has enough went away: nobody is left to tell
        print_error(Error::from_errno("writing to standard output", lost), as_json);
    }
    return exit_status(ErrorKind::Failed);
}

}  // namespace strata::cli
