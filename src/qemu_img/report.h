// Report: what this personality says, in the form that scripts made for qemu-img read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace strata::qemu_img {

/// The name that messages begin with; "qemu-img" if nobody says otherwise. It must stay where it
/// is.
void set_program_name(std::string_view name);
/// "qemu-img: TEXT" on standard error.
void report_error(std::string_view text);
/// "qemu-img: warning: TEXT".
void report_warning(std::string_view text);
/// On standard output.
void print(std::string_view text);
/// As print(), unless `quiet`.
void print_unless(bool quiet, std::string_view text);

/// Wrong usage: the main function adds where help is.
Error usage_error(std::string text);
/// A plain failure: exit status 1.
Error failure(std::string text);
/// The reason of an error as the peer words it: strerror() of its errno, else its text.
std::string reason(const Error& error);

/// "1.5 GiB": three significant digits.
std::string human_size(std::uint64_t bytes);

/// A line "    (12.34/100%)" that is written over itself, if `shown`; ends with a newline when it
/// goes.
class ProgressLine {
  public:
    /// Written anew after every `step` percent.
    ProgressLine(bool shown, double step);
    ~ProgressLine();
    ProgressLine(const ProgressLine&) = delete;
    ProgressLine& operator=(const ProgressLine&) = delete;
    void show(std::uint64_t done, std::uint64_t total);

  private:
    bool shown_;
    double step_;
    double last_ = -1.0;
};

}  // namespace strata::qemu_img
