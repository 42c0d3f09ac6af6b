// Command: one verb of the command line, as data.
//
// Parsing, --help, shell completion and near-match hints all come from these tables; a command's
// own file holds its table and its run function. commands.cc lists them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace strata::cli {

class Arguments;

/// What a shell offers for a value.
enum class Completes : std::uint8_t {
    Nothing,
    Choices,  ///< the alternatives in the value's name, "auto|kvm|soft"
    Files,
    Images,      ///< the names of the image store
    Formats,     ///< of disk images
    NewFormats,  ///< those that can be made
};

struct Option {
    std::string_view name;   ///< "--engine"
    char letter = 0;         ///< 'e' for -e; 0: none
    std::string_view value;  ///< how help shows the value, "auto|kvm|soft"; empty: a flag
    std::string_view help;
    Completes completes = Completes::Nothing;
    bool repeatable = false;
};

struct Positional {
    std::string_view name;  ///< "IMAGE"
    std::string_view help;
    bool required = false;
    Completes completes = Completes::Nothing;
    std::string_view choices = {};  ///< with Completes::Choices: "bash|zsh|fish"
    bool repeatable = false;        ///< the last one only: as many as there are
};

struct Command {
    std::string_view name;         ///< "run", "image build"
    std::string_view summary;      ///< one line
    std::string_view description;  ///< paragraphs for --help; may be empty
    std::span<const Positional> positionals;
    std::span<const Option> options;
    std::string_view examples;  ///< lines; may be empty
    /// The command's work: its exit status, or the error that main prints.
    Result<int> (*run)(const Arguments& arguments);
};

/// Options that every command has: --help, --json, --quiet, --log.
std::span<const Option> common_options();

/// Every command, in the order help shows them.
std::span<const Command* const> commands();

/// The command line as a program: parses, runs, prints an error if there is one; answers the exit
/// status.
int run_command_line(std::span<const std::string_view> words);

}  // namespace strata::cli
