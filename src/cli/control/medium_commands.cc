// strata disk eject, change: the disc in a drive of a machine that runs.
#include <array>
#include <filesystem>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/control/control_client.h"
#include "cli/image/image_tool.h"
#include "cli/run/disk_setup.h"

namespace strata::cli {
namespace {

using api::ControlOperation;

constexpr Positional kMachine{"MACHINE", "Its name, or the path of its control socket.", true,
                              Completes::Nothing, ""};
constexpr Positional kDrive{"DRIVE", "The drive: disk1 …, or its disc's file.", true,
                            Completes::Files, ""};
constexpr std::array kEjectPositionals = {kMachine, kDrive};
constexpr std::array kChangePositionals = {
    kMachine, kDrive, Positional{"FILE", "The new disc.", true, Completes::Files, ""}};
constexpr Option kForce{"--force", 0, "",
                        "Even if the guest has locked the tray: it loses what it has mounted."};
constexpr std::array kEjectOptions = {kForce};
constexpr std::array kChangeOptions = {
    kForce, Option{"--format", 'f', "FORMAT", "The file's format (default raw: an ISO image).",
                   Completes::Formats}};

api::ControlRequest request_for(ControlOperation operation, const Arguments& arguments) {
    api::ControlRequest request;
    request.operation = operation;
    request.disk = *arguments.positional(1);
    request.force = arguments.flag("--force");
    return request;
}

Result<int> run_eject(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    (void)STRATA_TRY(client.ask(request_for(ControlOperation::DiskEject, arguments)));
    return 0;
}

Result<int> run_change(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const std::string path(*arguments.positional(2));
    const UniqueFd file = STRATA_TRY(open_checked(path, "disc", O_RDONLY));
    std::string format(arguments.value("--format").value_or(""));
    if (format.empty()) {
        ImageTool tool = STRATA_TRY(ImageTool::start());
        format = STRATA_TRY(tool.looks_like(path));
        if (format != "raw") {
            return Error{
                ErrorKind::InvalidArgument,
                fmt::format("disc '{}' looks like a {} image: say -f {}, or -f raw if that "
                            "is only what was written into it",
                            path, format, format)};
        }
    }
    api::ControlRequest request = request_for(ControlOperation::DiskChange, arguments);
    request.file.name = std::filesystem::absolute(path).string();
    request.format = format;
    (void)STRATA_TRY(client.ask(std::move(request), file.get()));
    return 0;
}

}  // namespace

const Command kDiskEjectCommand = {
    .name = "disk eject",
    .summary = "Take the disc out of a drive; its tray stays open",
    .description =
        "A guest that has locked the tray is asked for the disc (status 5): try again "
        "when it has given it.",
    .positionals = kEjectPositionals,
    .options = kEjectOptions,
    .examples = "  strata disk eject web disk1\n",
    .run = run_eject,
};

const Command kDiskChangeCommand = {
    .name = "disk change",
    .summary = "Put another disc into a drive",
    .description =
        "The tray is shut then. A guest that has locked it is asked for the old disc "
        "(status 5): try again when it has given it.",
    .positionals = kChangePositionals,
    .options = kChangeOptions,
    .examples = "  strata disk change web disk1 tools.iso\n",
    .run = run_change,
};

}  // namespace strata::cli
