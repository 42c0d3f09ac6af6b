// strata disk: a running machine's disks: sizes, limits, snapshots, and jobs on them.
#include <algorithm>
#include <array>
#include <filesystem>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "block/nbd/address.h"
#include "block/one_go.h"
#include "block/registry.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/control/control_client.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

using api::ControlOperation;
using api::Json;

constexpr Positional kMachine{"MACHINE", "Its name, or the path of its control socket.", true,
                              Completes::Nothing, ""};
constexpr Positional kDisk{"DISK", "The disk: disk0, disk1 …, or its file.", true, Completes::Files,
                           ""};
constexpr std::array kListPositionals = {kMachine};
constexpr std::array kDiskPositionals = {kMachine, kDisk};
constexpr std::array kResizePositionals = {
    kMachine, kDisk, Positional{"SIZE", "20G, or +5G to add.", true, Completes::Nothing, ""}};
constexpr std::array kLimitPositionals = {
    kMachine, kDisk,
    Positional{"LIMIT", "iops=N, bps=SIZE …, as with --disk; none: no limits.", false,
               Completes::Nothing, "", true}};
constexpr std::array kTargetPositionals = {
    kMachine, kDisk,
    Positional{"TARGET", "The file of the copy, or an NBD export (nbd://HOST/EXPORT).", true,
               Completes::Files, ""}};
constexpr std::array kSnapshotPositionals = {
    kMachine, kDisk,
    Positional{"OVERLAY", "The file of the new overlay.", false, Completes::Files, ""}};

constexpr Option kRate{"--speed", 'r', "SIZE", "At most so many bytes a second, e.g. 50M."};
constexpr Option kNoWait{"--no-wait", 0, "",
                         "Print the job and return; it goes on (strata job list)."};
constexpr Option kFormat{"--format", 'f', "FORMAT",
                         "The copy's format (default qcow2; of an export: raw).",
                         Completes::Nothing};
/// Of a copy on an NBD server, with --disk's names.
constexpr std::array kExportOptions = {
    Option{"--reconnect-delay", 0, "SECONDS",
           "The copy is on an NBD server: how long to wait for it to come back."},
    Option{"--tls-certificates", 0, "FOLDER",
           "With TLS (nbds://HOST/EXPORT), by the credentials in this folder (docs/nbd.md).",
           Completes::Files},
    Option{"--tls-hostname", 0, "NAME", "The name in the server's certificate."},
    Option{"--tls-psk", 0, "on|off", "The folder has pre-shared keys.", Completes::Choices},
    Option{"--tls-user", 0, "NAME", "With such keys: whose."},
    Option{"--tls-verify", 0, "on|off", "off: any certificate will do.", Completes::Choices}};
constexpr Option kExisting{"--existing", 0, "",
                           "The copy's file, or device, is there: write over what it holds."};
constexpr std::array kMirrorOptions = {
    kFormat,
    kExisting,
    kExportOptions[0],
    kExportOptions[1],
    kExportOptions[2],
    kExportOptions[3],
    kExportOptions[4],
    kExportOptions[5],
    Option{"--pivot", 0, "", "At the end the guest goes on with the copy."},
    Option{"--keep", 0, "",
           "At the end the guest goes on with its disk. With neither the copy is kept the same "
           "until strata job complete."},
    kRate,
    kNoWait};
constexpr std::array kBackupOptions = {
    kFormat,
    kExisting,
    kExportOptions[0],
    kExportOptions[1],
    kExportOptions[2],
    kExportOptions[3],
    kExportOptions[4],
    kExportOptions[5],
    Option{"--bitmap", 0, "NAME",
           "A dirty bitmap in the disk's image (qcow2): it starts anew now, so that a later backup "
           "can go on from this one."},
    Option{"--incremental", 0, "", "Only what the bitmap has: over the backup before it."},
    Option{"--backing", 'b', "FILE", "With --incremental: the backup before it.", Completes::Files},
    Option{"--backing-format", 'F', "FORMAT", "Its format.", Completes::Nothing},
    kRate,
    kNoWait};
constexpr std::array kJobOptions = {kRate, kNoWait};
constexpr std::array kSnapshotOptions = {
    Option{"--internal", 0, "NAME", "Inside the image (qcow2) instead of a new overlay."}};

Result<Json> disk_of(ControlClient& client, std::string_view name) {
    const Json disks = STRATA_TRY(client.ask({.operation = ControlOperation::QueryDisks}));
    for (const Json& each : disks) {
        if (each.value("disk", "") == name || each.value("file", "") == name ||
            client.resolve(each.value("file", "")) == name) {
            return each;
        }
    }
    return Error{
        ErrorKind::NotFound,
        fmt::format("machine '{}' has no disk '{}' (strata disk list)", client.machine(), name)};
}

api::ControlRequest request_for(ControlOperation operation, const Json& disk) {
    api::ControlRequest request;
    request.operation = operation;
    request.disk = disk.value("disk", "");
    return request;
}

Result<UniqueFd> open_target(const std::string& path) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    struct stat status {};
    if (!fd.valid() || fstat(fd.get(), &status) != 0) {
        return Error::from_errno(fmt::format("'{}'", path));
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        return Error{ErrorKind::InvalidArgument, fmt::format("'{}' is not a file", path)};
    }
    return fd;
}

/// Makes a new image; what is there is not replaced.
Result<> make_image(const std::string& path, const std::string& format, std::uint64_t size,
                    block::OptionList options) {
    if (access(path.c_str(), F_OK) == 0) {
        return Error{ErrorKind::AlreadyExists, fmt::format("'{}' exists", path)};
    }
    ImageTool tool = STRATA_TRY(ImageTool::start());
    block::CreateRequest request;
    request.path = path;
    request.size = size;
    request.options = std::move(options);
    if (block::written_in_one_go(format, request)) {
        return Error{
            ErrorKind::NotSupported,
            fmt::format(
                "a running disk's copy does not come in order, as the format {} needs it: copy to "
                "qcow2 or raw, and convert that",
                format)};
    }
    return tool.create(format, std::move(request));
}

Result<std::uint64_t> rate_of(const Arguments& arguments) {
    const auto text = arguments.value("--speed");
    return text ? parse_size(*text) : Result<std::uint64_t>(0);
}

/// Follows a job to its end, or until it is ready if it waits then.
Result<int> follow_job(ControlClient& client, const Arguments& arguments,
                       api::ControlRequest request, int fd) {
    const bool stays =
        request.operation == ControlOperation::DiskMirror && request.end == api::MirrorEnd::Ask;
    request.speed = STRATA_TRY(rate_of(arguments));
    const std::string kind(api::to_text(request.operation));
    const Json started = STRATA_TRY(client.ask(std::move(request), fd));
    const std::string id = started.value("job", "");
    if (arguments.flag("--no-wait")) {
        print_out(arguments.flag("--json") ? api::dump_json(started) + "\n" : id + "\n");
        return 0;
    }
    ProgressBar bar(kind, !arguments.flag("--quiet"));
    std::uint64_t total = 0, done = 0;
    Result<int> outcome = 0;
    STRATA_TRY_VOID(client.follow([&](const Json& event) {
        if (event.value("event", "") != "job" || event.value("job", "") != id) {
            return false;
        }
        const std::string state = event.value("state", "");
        if (total != event.value("total", std::uint64_t{0})) {
            total = event.value("total", std::uint64_t{0});
            done = 0;
            bar.control().begin(total);
        }
        const std::uint64_t now = event.value("done", std::uint64_t{0});
        bar.control().advance(now - std::min(now, done));
        done = now;
        if (state == "failed" || state == "cancelled") {
            outcome = Error{ErrorKind::Failed,
                            fmt::format("{} {}: {}", id, state, event.value("error", "as asked"))};
        }
        return state == "failed" || state == "cancelled" || state == "done" ||
               (stays && state == "ready");
    }));
    if (outcome.ok() && stays) {
        notice(fmt::format("{} is ready: strata job complete {} {} --pivot (or --keep)", id,
                           *arguments.positional(0), id));
    }
    return outcome;
}

Result<int> run_list(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disks = STRATA_TRY(client.ask({.operation = ControlOperation::QueryDisks}));
    std::string table =
        fmt::format("{:<8} {:>10} {:<8} {:<8} {}\n", "DISK", "SIZE", "FORMAT", "JOB", "FILE");
    for (const Json& disk : disks) {
        std::string files;
        for (const Json& layer : disk.value("chain", Json::array())) {
            files += fmt::format("{}{}", files.empty() ? "" : " < ", layer.value("file", ""));
        }
        table += fmt::format("{:<8} {:>10} {:<8} {:<8} {}\n", disk.value("disk", ""),
                             format_size(disk.value("size", std::uint64_t{0})),
                             disk.value("format", ""), disk.value("job", "-"), files);
    }
    print_out(arguments.flag("--json") ? api::dump_json_pretty(disks) : table);
    return 0;
}

Result<int> run_resize(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    const std::string_view text = *arguments.positional(2);
    const bool relative = text.starts_with('+');
    const std::uint64_t bytes = STRATA_TRY(parse_size(relative ? text.substr(1) : text));
    api::ControlRequest request = request_for(ControlOperation::DiskResize, disk);
    request.size = relative ? disk.value("size", std::uint64_t{0}) + bytes : bytes;
    const std::uint64_t size = request.size;
    (void)STRATA_TRY(client.ask(std::move(request)));
    notice(fmt::format("{}: {}", disk.value("disk", ""), format_size(size)));
    return 0;
}

Result<int> run_limits(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    api::ControlRequest request = request_for(ControlOperation::DiskLimits, disk);
    for (std::size_t i = 2; arguments.positional(i); ++i) {
        const std::string_view text = *arguments.positional(i);
        const std::size_t equals = text.find('=');
        const std::string name(text.substr(0, equals));
        if (equals == std::string_view::npos || !api::is_disk_limit(name)) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("'{}' is no limit: use iops=N, bps=SIZE …", text)};
        }
        request.limits.push_back({name, STRATA_TRY(parse_size(text.substr(equals + 1)))});
    }
    (void)STRATA_TRY(client.ask(std::move(request)));
    return 0;
}

/// An export as the place of a copy. What a raw one held before is written over, zeros too.
Result<UniqueFd> prepare_export(const Arguments& arguments, const Json& disk,
                                api::ControlRequest& request, block::OptionList options) {
    request.file.name = *arguments.positional(2);
    request.format = arguments.value("--format").value_or("raw");
    request.nbd =
        block::nbd::location_options(STRATA_TRY(block::nbd::parse_location(request.file.name)));
    for (const Option& option : kExportOptions) {
        if (const auto value = arguments.value(option.name)) {
            const std::string_view name = option.name.substr(2);
            request.nbd.emplace_back(std::string(name == "tls-certificates" ? "tls-folder" : name),
                                     std::string(*value));
        }
    }
    block::OptionList check = request.nbd;
    block::nbd::Location location = STRATA_TRY(block::nbd::take_location(check));
    if (location.tls && location.tls_folder.empty()) {  // strata run says so too, but later
        return Error{ErrorKind::InvalidArgument,
                     "an export with TLS as a copy's target: name the folder of its credentials "
                     "(--tls-certificates FOLDER)"};
    }
    if (!location.tls_folder.empty()) {  // strata run looks from another folder, perhaps
        location.tls_folder = std::filesystem::absolute(location.tls_folder).string();
    }
    request.nbd = block::nbd::location_options(location);
    if (!arguments.flag("--existing") && request.format != "raw") {
        STRATA_TRY_VOID(make_image(block::nbd::credentials_uri(location), request.format,
                                   disk.value("size", std::uint64_t{0}), std::move(options)));
        request.empty = !request.incremental;
    }
    return UniqueFd();
}

/// The file of a copy: made, unless it is there.
Result<UniqueFd> prepare_target(const Arguments& arguments, const Json& disk,
                                api::ControlRequest& request, block::OptionList options) {
    const std::string path(*arguments.positional(2));
    if (block::is_location(path)) {
        return prepare_export(arguments, disk, request, std::move(options));
    }
    for (const Option& option : kExportOptions) {
        if (arguments.value(option.name)) {
            return Error{
                ErrorKind::InvalidArgument,
                fmt::format("{} is for a copy on an NBD server (nbd://HOST/EXPORT)", option.name)};
        }
    }
    request.format = arguments.value("--format").value_or("qcow2");
    const bool existing = arguments.flag("--existing");
    if (!existing) {
        STRATA_TRY_VOID(make_image(path, request.format, disk.value("size", std::uint64_t{0}),
                                   std::move(options)));
    }
    request.empty = !existing && !request.incremental;
    request.file.name = std::filesystem::absolute(path).string();
    return open_target(path);
}

Result<int> run_mirror(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    api::ControlRequest request = request_for(ControlOperation::DiskMirror, disk);
    if (arguments.flag("--pivot") && arguments.flag("--keep")) {
        return Error{ErrorKind::InvalidArgument, "--pivot or --keep, not both"};
    }
    request.end = arguments.flag("--pivot")  ? api::MirrorEnd::Pivot
                  : arguments.flag("--keep") ? api::MirrorEnd::Keep
                                             : api::MirrorEnd::Ask;
    const UniqueFd fd = STRATA_TRY(prepare_target(arguments, disk, request, {}));
    return follow_job(client, arguments, std::move(request), fd.get());
}

Result<int> run_backup(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    api::ControlRequest request = request_for(ControlOperation::DiskBackup, disk);
    request.bitmap = arguments.value("--bitmap").value_or("");
    request.incremental = arguments.flag("--incremental");
    const auto backing = arguments.value("--backing"), format = arguments.value("--backing-format");
    if (request.incremental && (request.bitmap.empty() || !backing || !format)) {
        return Error{ErrorKind::InvalidArgument,
                     "--incremental needs --bitmap, and --backing and --backing-format of the "
                     "backup before it"};
    }
    block::OptionList options;
    if (request.incremental) {
        options = {{"backing_file", std::filesystem::absolute(std::string(*backing)).string()},
                   {"backing_fmt", std::string(*format)}};
    }
    const UniqueFd fd = STRATA_TRY(prepare_target(arguments, disk, request, std::move(options)));
    return follow_job(client, arguments, std::move(request), fd.get());
}

Result<int> run_stream(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    return follow_job(client, arguments, request_for(ControlOperation::DiskStream, disk), -1);
}

Result<int> run_commit(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    const Json chain = disk.value("chain", Json::array());
    if (chain.size() < 2) {
        return Error{ErrorKind::WrongState, "the disk has no layer below to commit to"};
    }
    api::ControlRequest request = request_for(ControlOperation::DiskCommit, disk);
    request.file.name = client.resolve(chain[1].value("file", ""));
    request.format = chain[1].value("format", "");
    const UniqueFd fd = STRATA_TRY(open_target(request.file.name));
    return follow_job(client, arguments, std::move(request), fd.get());
}

Result<int> run_snapshot(const Arguments& arguments) {
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(0)));
    const Json disk = STRATA_TRY(disk_of(client, *arguments.positional(1)));
    api::ControlRequest request = request_for(ControlOperation::DiskSnapshot, disk);
    if (const auto name = arguments.value("--internal")) {
        request.snapshot = *name;
        (void)STRATA_TRY(client.ask(std::move(request)));
        return 0;
    }
    if (!arguments.positional(2)) {
        return Error{ErrorKind::InvalidArgument,
                     "name the new overlay's file, or say --internal NAME"};
    }
    const std::string path(*arguments.positional(2));
    STRATA_TRY_VOID(make_image(path, "qcow2", disk.value("size", std::uint64_t{0}), {}));
    const UniqueFd fd = STRATA_TRY(open_target(path));
    request.file.name = std::filesystem::absolute(path).string();
    request.format = "qcow2";
    request.backing = client.resolve(disk.value("file", ""));
    (void)STRATA_TRY(client.ask(std::move(request), fd.get()));
    return 0;
}

}  // namespace

const Command kDiskListCommand = {
    .name = "disk list",
    .summary = "The disks of a machine that runs, their layers and jobs",
    .description = "",
    .positionals = kListPositionals,
    .options = {},
    .examples = "",
    .run = run_list,
};

const Command kDiskResizeCommand = {
    .name = "disk resize",
    .summary = "Make a disk larger while the guest uses it",
    .description = "The guest sees the new size at once. A disk in use cannot shrink.",
    .positionals = kResizePositionals,
    .options = {},
    .examples = "  strata disk resize web disk0 +10G\n",
    .run = run_resize,
};

const Command kDiskLimitsCommand = {
    .name = "disk limits",
    .summary = "Change how many requests and bytes a second a disk takes",
    .description =
        "These limits are all of it from now on, for each disk of the group that the "
        "disk is in.",
    .positionals = kLimitPositionals,
    .options = {},
    .examples = "  strata disk limits web disk0 iops=500 bps-write=20M\n",
    .run = run_limits,
};

const Command kDiskMirrorCommand = {
    .name = "disk mirror",
    .summary = "Copy a disk in use elsewhere, and go on with the copy if wanted",
    .description =
        "The copy becomes the same as the disk while the guest works, however much it "
        "writes.",
    .positionals = kTargetPositionals,
    .options = kMirrorOptions,
    .examples = "  strata disk mirror web disk0 /new/web.qcow2 --pivot\n",
    .run = run_mirror,
};

const Command kDiskBackupCommand = {
    .name = "disk backup",
    .summary = "Copy a disk in use as it is at this moment",
    .description = "What the guest overwrites meanwhile is copied before.",
    .positionals = kTargetPositionals,
    .options = kBackupOptions,
    .examples =
        "  strata disk backup web disk0 full.qcow2 --bitmap daily\n"
        "  strata disk backup web disk0 mon.qcow2 --bitmap daily --incremental -b full.qcow2 -F "
        "qcow2\n",
    .run = run_backup,
};

const Command kDiskStreamCommand = {
    .name = "disk stream",
    .summary = "Make a disk in use independent of the layers below it",
    .description = "A cancelled one can be begun again, and finds less to do.",
    .positionals = kDiskPositionals,
    .options = kJobOptions,
    .examples = "",
    .run = run_stream,
};

const Command kDiskCommitCommand = {
    .name = "disk commit",
    .summary = "Write a disk's top layer into the one below, and go on with that",
    .description = "The top layer's file is not used any more at the end.",
    .positionals = kDiskPositionals,
    .options = kJobOptions,
    .examples = "",
    .run = run_commit,
};

const Command kDiskSnapshotCommand = {
    .name = "disk snapshot",
    .summary = "Keep a disk in use as it is now: under a new overlay, or inside the image",
    .description =
        "With an overlay the guest goes on in it, and the old file does not change any "
        "more.",
    .positionals = kSnapshotPositionals,
    .options = kSnapshotOptions,
    .examples = "  strata disk snapshot web disk0 web-2.qcow2\n",
    .run = run_snapshot,
};

}  // namespace strata::cli
