// Landlock: file access by an unprivileged process's own choice. Only src/host includes this.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace strata::host {

/// From now on this thread and those it starts can open nothing but `readable`, and those only for
/// reading; descriptors that are open stay as they are. Needs no_new_privs. NotSupported if the
/// kernel has no Landlock.
Result<> restrict_files(const std::vector<std::string>& readable);

}  // namespace strata::host
