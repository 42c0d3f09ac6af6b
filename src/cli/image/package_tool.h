// PackageTool: Debian's own tools, which image building runs, and what they need of the host.
#pragma once

#include <string_view>

#include "host/tool.h"

namespace strata::cli {

/// As host::run_tool(); where the program is not installed, the error says what to do.
Result<std::string> run_package_tool(const host::ToolRequest& request);

/// Whether this user may make the tree of another system: root may, others by a range of ids in
/// /etc/subuid and /etc/subgid. The error names the command that gives them one.
Result<> check_subordinate_ids();

/// Whether `table` (subuid(5)) gives ids to the user, by name or number.
[[nodiscard]] bool gives_subordinate_ids(std::string_view table, std::string_view user,
                                         unsigned uid);

}  // namespace strata::cli
