// Tool: running another program to its end, for its output.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::host {

struct ToolRequest {
    std::vector<std::string>
        words;  ///< the program (looked up in $PATH if it has no slash) and its arguments
    std::string folder = {};  ///< working directory; empty: ours
    /// Each line of the tool's standard error, as it comes; the last ones also become part of the
    /// error.
    std::function<void(std::string_view)> on_line = {};
};

/// Runs a tool to its end and answers its standard output (at most 16 MiB); its standard input is
/// empty. NotFound if there is no such program; Failed with its last words if it fails.
Result<std::string> run_tool(const ToolRequest& request);

}  // namespace strata::host
