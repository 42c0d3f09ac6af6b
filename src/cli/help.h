// Help: what --help prints, from the command tables.
#pragma once

#include <string>

#include "cli/command.h"

namespace strata::cli {

/// The overview: every command with its summary.
std::string overview();
/// One command: usage line, description, arguments, options, examples.
std::string help_of(const Command& command);

}  // namespace strata::cli
