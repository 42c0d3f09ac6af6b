// Report: standard output and error in the peer's form.
#include "qemu_img/report.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "block/jobs/progress_signal.h"

namespace strata::qemu_img {

namespace {

std::string_view& program_name() {
    static std::string_view name = "qemu-img";
    return name;
}

}  // namespace

void set_program_name(std::string_view name) {
    program_name() = name;
}

void report_error(std::string_view text) {
    (void)std::fflush(stdout);
    fmt::print(stderr, "{}: {}\n", program_name(), text);
}

void report_warning(std::string_view text) {
    report_error(fmt::format("warning: {}", text));
}

void print(std::string_view text) {
    fmt::print(stdout, "{}", text);
}

void print_unless(bool quiet, std::string_view text) {
    if (!quiet) {
        print(text);
    }
}

Error usage_error(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text)};
}

Error failure(std::string text) {
    return {ErrorKind::Failed, std::move(text)};
}

std::string reason(const Error& error) {
    return error.system_errno() != 0 ? std::string(std::strerror(error.system_errno()))
                                     : error.text();
}

std::string human_size(std::uint64_t bytes) {
    constexpr std::array kUnits = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    // The next unit from 1000 on, so that three digits are enough.
    int exponent = 0;
    (void)std::frexp(static_cast<double>(bytes) / (1000.0 / 1024.0), &exponent);
    const int unit = bytes == 0 ? 0 : (exponent - 1) / 10;
    const double value = static_cast<double>(bytes) / std::ldexp(1.0, unit * 10);
    return fmt::format("{:.3g} {}B", value, kUnits.at(static_cast<std::size_t>(unit)));
}

namespace {

double percent_of(std::uint64_t done, std::uint64_t total) {
    return total == 0 ? 100.0 : static_cast<double>(done) / static_cast<double>(total) * 100.0;
}

void print_answer(std::uint64_t done, std::uint64_t total) {
    fmt::print(stderr, "    ({:.2f}/100%)\n", percent_of(done, total));
}

}  // namespace

// What is shown needs no asking for.
ProgressLine::ProgressLine(bool shown, double step) : shown_(shown), step_(step) {
    if (!shown) {
        block::answer_progress_signal(&print_answer);
    }
}

ProgressLine::~ProgressLine() {
    block::answer_progress_signal({});
    if (shown_) {
        print("\n");
        (void)std::fflush(stdout);
    }
}

void ProgressLine::show(std::uint64_t done, std::uint64_t total) {
    const double percent = percent_of(done, total);
    if (shown_ && (done == 0 || done >= total || percent - last_ >= step_)) {
        last_ = percent;
        fmt::print(stdout, "    ({:.2f}/100%)\r", percent);
        (void)std::fflush(stdout);
    }
    if (!shown_) {
        block::look_for_progress_signal(done, total);
    }
}

}  // namespace strata::qemu_img
