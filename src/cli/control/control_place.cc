// Control place: names to paths.
#include "cli/control/control_place.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <sys/un.h>
#include <unistd.h>

namespace strata::cli {
namespace {

constexpr std::string_view kEnding = ".sock";

bool plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == ':';
}

}  // namespace

Result<std::string> control_folder() {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe)
    if (runtime != nullptr && runtime[0] == '/') {
        return std::string(runtime) + "/strata";
    }
    if (geteuid() == 0) {
        return std::string("/run/strata");
    }
    return Error{ErrorKind::NotFound,
                 "XDG_RUNTIME_DIR is not set, so machines have no names here; use --control PATH"};
}

Result<std::string> control_path(std::string_view machine) {
    std::string path(machine);
    if (machine.find('/') == std::string_view::npos) {
        if (machine.empty() || machine[0] == '.' || !std::ranges::all_of(machine, plain)) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("'{}' is no name for a machine: use letters, digits, '-', "
                                     "'_', '.', ':'",
                                     machine)};
        }
        path = fmt::format("{}/{}{}", STRATA_TRY(control_folder()), machine, kEnding);
    }
    if (path.size() >= sizeof(sockaddr_un{}.sun_path)) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("'{}' is too long for a socket's path", path)};
    }
    return path;
}

std::vector<std::string> control_names() {
    std::vector<std::string> names;
    const auto folder = control_folder();
    std::error_code none;  // a folder that is not there has no machines
    if (folder) {
        for (const auto& entry : std::filesystem::directory_iterator(*folder, none)) {
            const std::string file = entry.path().filename().string();
            if (file.ends_with(kEnding)) {
                names.push_back(file.substr(0, file.size() - kEnding.size()));
            }
        }
    }
    std::ranges::sort(names);
    return names;
}

}  // namespace strata::cli
