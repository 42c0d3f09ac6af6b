// Help: laying the tables out.
#include "cli/help.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::size_t kColumn = 34;
constexpr std::size_t kWidth = 100;

std::string heading(std::string_view text) {
    return bold(text, STDOUT_FILENO) + "\n";
}

// "  LEFT      TEXT", the text wrapped under itself.
std::string entry(std::string_view left, std::string_view text) {
    std::string out = fmt::format("  {:<{}}", left, kColumn - 2);
    std::size_t column = out.size();
    if (left.size() + 3 > kColumn) {
        out += "\n" + std::string(kColumn, ' ');
        column = kColumn;
    }
    while (!text.empty()) {
        const auto space = text.find(' ');
        const std::string_view word = text.substr(0, space);
        if (column + word.size() > kWidth && column > kColumn) {
            out.pop_back();  // the space
            out += "\n" + std::string(kColumn, ' ');
            column = kColumn;
        }
        out += word;
        out += ' ';
        column += word.size() + 1;
        text.remove_prefix(std::min(text.size(), word.size() + 1));
    }
    while (out.ends_with(' ')) {
        out.pop_back();
    }
    return out + "\n";
}

std::string option_entry(const Option& option) {
    const std::string letter = option.letter != 0 ? fmt::format("-{}, ", option.letter) : "    ";
    return entry(
        fmt::format("{}{}{}{}", letter, option.name, option.value.empty() ? "" : " ", option.value),
        fmt::format("{}{}", option.help, option.repeatable ? " May be repeated." : ""));
}

}  // namespace

std::string overview() {
    std::string out =
        "Strata runs virtual machines: an unmodified Linux in one line, with or without hardware "
        "help.\n\n";
    out += heading("Usage:") + "  strata COMMAND [ARGUMENTS]\n\n" + heading("Commands:");
    for (const Command* command : commands()) {
        if (!command->summary.empty()) {
            out += entry(command->name, command->summary);
        }
    }
    out += "\n" + heading("Every command has:");
    for (const Option& option : common_options()) {
        out += option_entry(option);
    }
    out +=
        "\n" + heading("Start here:") +
        "  strata image build tiny      make the demo guest (a Debian kernel and a small shell)\n"
        "  strata run tiny              boot it; Ctrl-] leaves\n"
        "  strata info                  what this host offers\n\n" +
        heading("Exit status:") +
        "  0 done · 1 failed · 2 wrong usage · 3 not found · 4 exists already · 5 wrong state · 6 "
        "not permitted\n"
        "  7 timed out · 8 daemon unreachable · 9 not supported · 10 the guest panicked or "
        "triple-faulted\n";
    return out;
}

std::string help_of_group(std::string_view word) {
    std::string out;
    for (const Command* command : commands()) {
        if (command->name.size() > word.size() && command->name.starts_with(word) &&
            command->name[word.size()] == ' ' && !command->summary.empty()) {
            out += entry(command->name, command->summary);
        }
    }
    return out.empty()
               ? out
               : heading("Usage:") + fmt::format("  strata {} COMMAND [ARGUMENTS]\n\n", word) +
                     heading("Commands:") + out +
                     fmt::format("\nMore of each: strata {} COMMAND --help\n", word);
}

std::string help_of(const Command& command) {
    std::string out = fmt::format("{}.\n\n", command.summary) + heading("Usage:") +
                      fmt::format("  strata {}", command.name);
    for (const Positional& positional : command.positionals) {
        out += positional.required ? fmt::format(" {}", positional.name)
                                   : fmt::format(" [{}]", positional.name);
        out += positional.repeatable ? "..." : "";
    }
    out += " [OPTIONS]\n";
    if (!command.description.empty()) {
        out += fmt::format("\n{}\n", command.description);
    }
    if (!command.positionals.empty()) {
        out += "\n" + heading("Arguments:");
        for (const Positional& positional : command.positionals) {
            out += entry(positional.name, positional.help);
        }
    }
    out += "\n" + heading("Options:");
    for (const Option& option : command.options) {
        out += option_entry(option);
    }
    for (const Option& option : common_options()) {
        out += option_entry(option);
    }
    if (!command.examples.empty()) {
        out += "\n" + heading("Examples:") + fmt::format("{}\n", command.examples);
    }
    return out;
}

}  // namespace strata::cli
