// Log: the one writer.
#include "base/log.h"

#include <array>
#include <iterator>

#include <fmt/format.h>
#include <unistd.h>

namespace strata::log {
namespace {

// The process-wide level; relaxed: a late change of verbosity harms nobody.
std::atomic<Level> g_level{
    Level::Warn};  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

constexpr std::array<std::string_view, 5> kNames = {"error", "warning", "info", "debug", "trace"};

}  // namespace

void set_level(Level level) {
    g_level.store(level, std::memory_order_relaxed);
}

bool set_level(std::string_view name) {
    constexpr std::array<std::string_view, 5> kOptions = {"error", "warn", "info", "debug",
                                                          "trace"};
    for (std::size_t i = 0; i < kOptions.size(); ++i) {
        if (kOptions[i] == name) {
            set_level(static_cast<Level>(i));
            return true;
        }
    }
    return false;
}

bool enabled(Level level) {
    return level <= g_level.load(std::memory_order_relaxed);
}

void write(Level level, std::string_view text) {
    fmt::memory_buffer line;
    fmt::format_to(std::back_inserter(line), "strata: {}: {}\n",
                   kNames[static_cast<std::size_t>(level)], text);
    // A log line that cannot be written has nowhere else to go.
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace strata::log
