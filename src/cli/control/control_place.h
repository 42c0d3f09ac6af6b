// Control place: where the control socket of a running machine lies.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::cli {

/// The folder of named machines' sockets: $XDG_RUNTIME_DIR/strata, /run/strata for root. NotFound
/// if neither is there.
Result<std::string> control_folder();
/// The socket of a machine: `machine` is its name, or a path if there is a slash in it.
Result<std::string> control_path(std::string_view machine);
/// Names of the sockets in the folder, of machines that run or have been killed.
std::vector<std::string> control_names();

}  // namespace strata::cli
