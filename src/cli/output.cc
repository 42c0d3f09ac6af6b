// Output: lines, colours, errors.
#include "cli/output.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>
#include <unistd.h>

#include "api/json.h"

namespace strata::cli {
namespace {

// The one switch of this file; set once, before any thread.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
std::atomic<bool> g_quiet{false};

// The errno of the first write to standard output that failed.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
std::atomic<int> g_output_errno{0};

/// The errno of a write that failed, else 0.
int write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t done = write(fd, text.data(), text.size());
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? errno : EIO;
        }
        text.remove_prefix(static_cast<std::size_t>(done));
    }
    return 0;
}

std::string coloured(std::string_view text, int fd, std::string_view code) {
    const char* no_color =
        std::getenv("NO_COLOR");  // NOLINT(concurrency-mt-unsafe): before any thread
    if (isatty(fd) == 0 || (no_color != nullptr && *no_color != 0)) {
        return std::string(text);
    }
    return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

std::string_view kind_name(ErrorKind kind) {
    constexpr std::array<std::string_view, 10> kNames = {
        "ok",          "failed",     "usage",   "not-found",   "exists",
        "wrong-state", "permission", "timeout", "unreachable", "unsupported"};
    return kNames.at(static_cast<std::size_t>(kind));
}

}  // namespace

void print_out(std::string_view text) {
    int none = 0;
    if (const int error = write_all(STDOUT_FILENO, text); error != 0) {
        (void)g_output_errno.compare_exchange_strong(none, error);
    }
}

int output_errno() {
    return g_output_errno.load(std::memory_order_relaxed);
}

void set_quiet(bool quiet) {
    g_quiet.store(quiet, std::memory_order_relaxed);
}

void notice(std::string_view text) {
    if (!g_quiet.load(std::memory_order_relaxed)) {
        complain(text);
    }
}

void complain(std::string_view text) {
    (void)write_all(STDERR_FILENO, fmt::format("strata: {}\n", text));
}

void print_error(const Error& error, bool as_json) {
    if (as_json) {
        const api::Json json{{"error",
                              {{"code", exit_status(error.kind())},
                               {"kind", kind_name(error.kind())},
                               {"message", error.text()}}}};
        (void)write_all(STDERR_FILENO, api::dump_json(json) + "\n");
        return;
    }
    (void)write_all(STDERR_FILENO,
                    fmt::format("{} {}\n", red("strata: error:", STDERR_FILENO), error.text()));
}

std::string bold(std::string_view text, int fd) {
    return coloured(text, fd, "1");
}
std::string red(std::string_view text, int fd) {
    return coloured(text, fd, "1;31");
}

}  // namespace strata::cli
