// STRATA_CHECK: the failing side.
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace strata {

void check_failed(const char* expression, const char* file, int line,
                  std::string_view message) noexcept {
    // SAFETY: precision is bounded by the view's own length.
    std::fprintf(stderr, "strata: CHECK failed: %s at %s:%d: %.*s\n", expression, file, line,
                 static_cast<int>(message.size()), message.data());
    std::abort();
}

}  // namespace strata
