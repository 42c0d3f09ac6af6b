// Output: how the command line talks: results on standard output, notices and errors on standard
// error.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace strata::cli {

/// Text for standard output, flushed. What cannot be written makes the command fail in the end
/// (output_errno()).
void print_out(std::string_view text);
/// Why text for standard output was lost first; 0: nothing was.
int output_errno();

/// A line on standard error, "strata: TEXT". Silent with --quiet.
void notice(std::string_view text);
/// Same, but never silent.
void complain(std::string_view text);
void set_quiet(bool quiet);

/// The error on standard error: one line for people, or one JSON object with --json.
void print_error(const Error& error, bool as_json);

/// `text` in bold or red if that descriptor is a terminal and NO_COLOR is not set.
std::string bold(std::string_view text, int fd);
std::string red(std::string_view text, int fd);

}  // namespace strata::cli
