// STRATA_CHECK: an invariant of our own code, on in release. It prints the expression, the place
// and the message, and ends the process: a broken invariant must never reach the guest's data.
// Never used on what a guest or a file says.
#pragma once

#include <string_view>

namespace strata {

/// Prints "CHECK failed: …" to standard error and aborts. Callable from any thread; allocates
/// nothing.
[[noreturn]] void check_failed(const char* expression, const char* file, int line,
                               std::string_view message) noexcept;

}  // namespace strata

#define STRATA_CHECK(condition, message)                                     \
    do {                                                                     \
        if (!(condition)) [[unlikely]]                                       \
            ::strata::check_failed(#condition, __FILE__, __LINE__, message); \
    } while (false)
