// strata version: which Strata this is.
#include <fmt/format.h>

#include "api/json.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

Result<int> run(const Arguments& arguments) {
    print_out(arguments.flag("--json")
                  ? api::dump_json_pretty(api::Json{{"version", STRATA_VERSION}})
                  : fmt::format("strata {}\n", STRATA_VERSION));
    return 0;
}

}  // namespace

const Command kVersionCommand = {
    .name = "version",
    .summary = "Print the version",
    .description = "",
    .positionals = {},
    .options = {},
    .examples = "",
    .run = run,
};

}  // namespace strata::cli
