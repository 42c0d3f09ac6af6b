// PackageTool: running, and looking at subuid(5).
#include "cli/image/package_tool.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/image/store.h"

namespace strata::cli {
namespace {

constexpr std::size_t kMaxTable = 1U << 20;

}  // namespace

Result<std::string> run_package_tool(const host::ToolRequest& request) {
    auto output = host::run_tool(request);
    if (!output && output.error().kind() == ErrorKind::NotFound) {
        return Error{ErrorKind::NotFound,
                     fmt::format("the program '{}' is not installed: run tools/setup.sh image",
                                 request.words[0])};
    }
    return output;
}

bool gives_subordinate_ids(std::string_view table, std::string_view user, unsigned uid) {
    const std::string number = std::to_string(uid);
    for (const std::string_view line : split(table, '\n')) {
        const auto fields = split(line, ':');
        if (fields.size() == 3 && (fields[0] == user || fields[0] == number) &&
            !fields[2].empty() && fields[2] != "0") {
            return true;
        }
    }
    return false;
}

Result<> check_subordinate_ids() {
    const unsigned uid = geteuid();
    if (uid == 0) {
        return ok();
    }
    const passwd* entry =
        getpwuid(uid);  // NOLINT(concurrency-mt-unsafe): the command has one thread
    const std::string user = entry != nullptr ? entry->pw_name : std::to_string(uid);
    for (const char* path : {"/etc/subuid", "/etc/subgid"}) {
        const auto table = read_file(path, kMaxTable);
        if (!table || !gives_subordinate_ids(*table, user, uid)) {
            return Error{ErrorKind::PermissionDenied,
                         fmt::format("{} gives user '{}' no ids of its own, which the files of "
                                     "another system need: run 'sudo usermod "
                                     "--add-subuids 100000-165535 --add-subgids 100000-165535 {}', "
                                     "or build the image as root",
                                     path, user, user)};
        }
    }
    return ok();
}

}  // namespace strata::cli
