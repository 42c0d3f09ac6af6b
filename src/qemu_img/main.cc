// The personality's main function: standard options, then the command.
#include "qemu_img/main.h"

#include <array>
#include <csignal>
#include <cstdio>
#include <string_view>

#include <fmt/format.h>

#include "block/jobs/progress_signal.h"
#include "block/registry.h"
#include "block/wording.h"
#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kCommands = {&kAmend,   &kBench,   &kBitmap, &kCheck,  &kCommit,
                                  &kCompare, &kConvert, &kCreate, &kDd,     &kInfo,
                                  &kMap,     &kMeasure, &kRebase, &kResize, &kSnapshot};

constexpr std::string_view kVersion =
    "qemu-img version 7.2.0 (Strata " STRATA_VERSION ", compatible)\n";

int end_with(const Error& error) {
    report_error(error.text());
    if (error.kind() == ErrorKind::InvalidArgument) {
        fmt::print(stderr, "Try 'qemu-img --help' for more information\n");
    }
    return 1;
}

/// Standard options; answers how many words they take, or the status to end with.
struct Standard {
    std::size_t used = 1;
    int status = -1;
};

Standard standard_options(std::span<char*> words) {
    Standard result;
    while (result.used < words.size() && words[result.used][0] == '-') {
        const std::string_view word = words[result.used];
        if (word == "-h" || word == "--help") {
            print_help();
            return {result.used, 0};
        }
        if (word == "-V" || word == "--version") {
            print(kVersion);
            return {result.used, 0};
        }
        if (word != "-T" && word != "--trace") {
            return {result.used,
                    end_with(usage_error(fmt::format("unrecognized option '{}'", word)))};
        }
        result.used += 2;  // tracing is the peer's own; taken and ignored
    }
    return result;
}

int run_command(const Command& command, std::span<char*> words) {
    auto session = Session::start();
    if (!session.ok()) {
        return end_with(session.error());
    }
    auto status = command.run(**session, words);
    (void)std::fflush(stdout);
    return status.ok() ? status.value() : end_with(status.error());
}

}  // namespace

std::span<const Command* const> commands() {
    return kCommands;
}

void print_help() {
    print(kVersion);
    print(
        "usage: qemu-img [standard options] command [command options]\n\n"
        "Strata's disk image tool with qemu-img's command line. The same work under Strata's own "
        "rules: strata image --help\n\n"
        "    '-h', '--help'       display this help and exit\n"
        "    '-V', '--version'    output version information and exit\n\n"
        "Command syntax:\n");
    for (const Command* command : kCommands) {
        print(fmt::format("  {} {}\n", command->name, command->syntax));
    }
    print("\nSupported formats:");
    for (const block::FormatDriver& driver : block::format_drivers()) {
        print(fmt::format(" {}", driver.name));
    }
    print("\n");
}

int run(std::span<char*> words) {
    block::use_wording(block::Wording::Qemu);
    (void)std::signal(SIGPIPE, SIG_IGN);
    block::hold_progress_signal();
    if (words.size() < 2) {
        return end_with(usage_error("Not enough arguments"));
    }
    const Standard standard = standard_options(words);
    if (standard.status >= 0) {
        return standard.status;
    }
    if (standard.used >= words.size()) {
        return 0;
    }
    const std::span<char*> rest = words.subspan(standard.used);
    for (const Command* command : kCommands) {
        if (command->name == rest[0]) {
            return run_command(*command, rest);
        }
    }
    return end_with(usage_error(fmt::format("Command not found: {}", rest[0])));
}

}  // namespace strata::qemu_img
