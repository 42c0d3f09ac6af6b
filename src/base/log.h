// Log: sentences with key=value pairs on standard error (or the VMM's log descriptor).
//
// error: something asked for did not happen. warn: abnormal, nothing lost. info: rare state
// changes. debug, trace: for developers. The level comes from set_level() (the STRATA_LOG variable
// or --log). What a guest can trigger goes through log_guest(), which is rate-limited per call
// site; guest data is never logged.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include <fmt/core.h>

namespace strata::log {

enum class Level { Error, Warn, Info, Debug, Trace };

/// Sets what is printed from now on. Any thread.
void set_level(Level level);
/// By name: error, warn, info, debug, trace. False for another.
[[nodiscard]] bool set_level(std::string_view name);
[[nodiscard]] bool enabled(Level level);
/// Writes one line, whole, to standard error. Any thread.
void write(Level level, std::string_view text);

template <typename... Args>
void print(Level level, fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(level)) {
        write(level, fmt::format(format, std::forward<Args>(args)...));
    }
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
    print(Level::Error, format, std::forward<Args>(args)...);
}
template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
    print(Level::Warn, format, std::forward<Args>(args)...);
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
    print(Level::Info, format, std::forward<Args>(args)...);
}
template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
    print(Level::Debug, format, std::forward<Args>(args)...);
}

/// Lets the first 10 events pass, then one in 65536. One object per call site (a static), shared by
/// threads.
class RateLimit {
  public:
    [[nodiscard]] bool pass() {
        // relaxed: only a count; nothing else is published through it.
        const std::uint64_t n = count_.fetch_add(1, std::memory_order_relaxed);
        return n < 10 || (n & 0xffff) == 0;
    }

  private:
    std::atomic<std::uint64_t> count_{0};
};

/// Something the guest did that makes no sense: debug level, rate-limited by `limit`.
template <typename... Args>
void guest(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(Level::Debug) && limit.pass()) {
        write(Level::Debug, fmt::format(format, std::forward<Args>(args)...));
    }
}

}  // namespace strata::log
