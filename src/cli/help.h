// Help: what --help prints, from the command tables.
#pragma once

#include <string>
#include <string_view>

#include "cli/command.h"

namespace strata::cli {

/// The overview: every command with its summary.
std::string overview();
/// The commands that begin with `word` and have a second one; empty if there are none.
std::string help_of_group(std::string_view word);
/// One command: usage line, description, arguments, options, examples.
std::string help_of(const Command& command);

}  // namespace strata::cli
