// strata run: options to a MachineConfig, files opened, then a session.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/option_text.h"
#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/control/control_place.h"
#include "cli/image/store.h"
#include "cli/output.h"
#include "cli/run/disk_setup.h"
#include "cli/run/secrets.h"
#include "cli/run/session.h"

namespace strata::cli {
namespace {

constexpr std::uint64_t kStopGrace = 30;
constexpr std::uint64_t kMaxStopGrace = 24ULL * 3600;
constexpr std::uint64_t kMaxTimeout = 100ULL * 365 * 24 * 3600;

constexpr std::array kPositionals = {
    Positional{"IMAGE", "An image of the store (strata image list). Without one, give --kernel.",
               false, Completes::Images, ""}};

constexpr std::array kOptions = {
    Option{"--engine", 'e', "auto|kvm|soft",
           "What runs the guest's code. auto (default): KVM if this host's runs a probe guest "
           "well, otherwise the software CPU.",
           Completes::Choices},
    Option{"--cpu", 0, "MODEL",
           "CPU model: host (default), x86-64-v1 to x86-64-v4; then +flag or -flag, e.g. "
           "x86-64-v3,-avx2."},
    Option{"--cpus", 'c', "N", "Virtual CPUs (default 1), or sockets=,cores=,threads=."},
    Option{
        "--memory", 'm', "SIZE",
        "Memory, e.g. 512M or 4G (default 1G, or what the image asks for); a bare number is MiB."},
    Option{"--kernel", 'k', "FILE",
           "A Linux bzImage, a PVH or a multiboot ELF; replaces the image's kernel and initrd.",
           Completes::Files},
    Option{"--initrd", 0, "FILE", "The initial RAM disk.", Completes::Files},
    Option{"--kernel-entry", 0, "auto|decompress|stub",
           "Who unpacks a bzImage. auto (default): Strata before the start, which is quicker; "
           "where it cannot, the kernel's own stub.",
           Completes::Choices},
    Option{"--append", 0, "TEXT", "Kernel command line; added after the image's own."},
    Option{"--disk", 'd',
           "FILE[,format=NAME][,bus=virtio|scsi|sata][,media=disk|cdrom][,mode=MODE][,readonly][,"
           "follow][,key-secret=ID][,serial="
           "TEXT][,queues=N]"
           "[,iops=N][,bps=SIZE][,werror=enospc|report|stop|ignore][,rerror=report|stop]"
           "[,reconnect-delay=SECONDS][,open-timeout=SECONDS][,tls-certificates=FOLDER]",
           "A disk, after the image's own: a file, a device, an export of an NBD server "
           "(nbd://HOST/EXPORT, docs/nbd.md), or a folder as a FAT disk (fat:FOLDER, read only, or "
           "with mode=nonpersistent; docs/disk-formats.md). format: of the file; raw if it looks "
           "like nothing else. "
           "bus: what it hangs on (default virtio). "
           "mode: persistent (default), readonly, nonpersistent (writes are dropped at the end) or "
           "undoable (they go to FILE.undo). "
           "follow: open the backing files that it names, only if it is trusted. "
           "key-secret: what opens an encrypted one (--object). "
           "iops, bps: at most so many requests and bytes a second (-read, -write: of one kind; "
           "-max, -max-length: bursts; limit-group=NAME: together). "
           "werror: what a failed write does (enospc: a full host disk pauses the machine, other "
           "errors are the guest's), rerror: a failed read. "
           "reconnect-delay: how long a disk's requests wait for its server to come back.",
           Completes::Files, true},
    Option{
        "--cdrom", 0, "FILE",
        "A DVD drive with this disc (an ISO image): --disk FILE,media=cdrom. none: an empty one; "
        "discs are changed by strata disk change and eject.",
        Completes::Files, true},
    Option{"--object", 0, "secret,id=ID,file=FILE[,format=raw|base64][,keyid=ID,iv=TEXT]",
           "A passphrase, for --disk …,key-secret=ID: the whole file, a line's end too. keyid: it "
           "is encrypted under another secret.",
           Completes::Nothing, true},
    Option{"--net", 'n', "user[,forward=tcp:2222:22]|none",
           "Network. user (default): behind this host, needs no rights; "
           "forward=[tcp|udp:][ADDRESS:]HOST:GUEST lets connections in.",
           Completes::Nothing, true},
    Option{"--serial", 0, "stdio|pty|file:PATH|unix:PATH|none",
           "Where the first serial port (ttyS0) leads: stdio unless the console has the terminal.",
           Completes::Choices},
    Option{"--console", 0, "stdio|pty|file:PATH|unix:PATH|none",
           "Where a paravirtual console (hvc0) leads; none (default): the machine has none. Faster "
           "than the serial port; tell the "
           "guest with --append console=hvc0.",
           Completes::Choices},
    Option{"--no-reboot", 0, "", "A reset of the guest ends the run."},
    Option{"--stop-grace", 0, "SECONDS",
           "At Ctrl-], SIGINT or SIGTERM the guest's power button is pressed; it has so long to "
           "power off (default 30; 0: it is not asked)."},
    Option{"--timeout", 't', "SECONDS",
           "Stop the machine after so long; the exit status is then 7."},
    Option{"--name", 0, "NAME",
           "The machine's name, by which other commands reach it while it runs: strata machine, "
           "disk, job (default: the image's, in messages alone)."},
    Option{"--control", 0, "PATH",
           "A socket by which they reach it, instead of the one of its name.", Completes::Files},
    Option{"--debug-exit", 0, "",
           "Port 0xf4 ends the run: a value V gives exit status (V<<1)|1. For test kernels."},
    Option{"--profile", 0, "FILE",
           "Soft engine: at the end, which guest code ran how often; tools/perf_blocks.py brings "
           "it together with perf.",
           Completes::Files},
    Option{"--trace", 0, "STAGES",
           "Soft engine: writes its work to standard error: decode (guest instructions), blocks, "
           "code (of the host), exits (from translated code); several with commas."},
    Option{"--interpret-only", 0, "",
           "Soft engine without its translator. For finding faults in it."},
};

/// What the options and the image say together, files open.
struct Plan {
    SessionRequest request;
    std::vector<std::string> notices{};  ///< for the user, before the machine starts
    Secrets secrets{};

    std::int64_t add(UniqueFd fd) {
        request.fds.push_back(std::move(fd));
        return static_cast<std::int64_t>(request.fds.size()) - 1;
    }
};

Result<> open_file(Plan& plan, api::FileRef& file, std::string_view what, std::string path) {
    file.name = std::move(path);
    file.fd = plan.add(STRATA_TRY(open_checked(file.name, what, O_RDONLY)));
    return ok();
}

/// In place of a disc's file: the drive is empty.
constexpr std::string_view kNoDisc = "none";

// The VMM takes the disk's lock, on the same open file.
Result<> open_disk(Plan& plan, api::DiskText disk) {
    if (disk.cdrom && disk.file.name == kNoDisc) {
        disk.file.name.clear();
        disk.format = "raw";
        plan.request.config.disks.push_back(std::move(disk));
        return ok();
    }
    const std::string secret = disk.key_secret;
    PreparedDisk prepared = STRATA_TRY(prepare_disk(std::move(disk)));
    if (!secret.empty()) {
        prepared.config.passphrase_fd = plan.add(STRATA_TRY(plan.secrets.as_file(secret)));
    }
    if (prepared.fd.valid()) {
        prepared.config.file.fd = plan.add(std::move(prepared.fd));
    }
    if (!prepared.notice.empty()) {
        plan.notices.push_back(std::move(prepared.notice));
    }
    if (!prepared.folder.location.empty()) {
        plan.request.folders.emplace(plan.request.config.disks.size(), std::move(prepared.folder));
    }
    plan.request.config.disks.push_back(std::move(prepared.config));
    return ok();
}

Result<> apply_image(Plan& plan, std::string_view name, bool own_kernel) {
    const Image image = STRATA_TRY(find_image(name));
    api::MachineConfig& config = plan.request.config;
    config.name = image.name;
    config.append = image.append;
    config.memory_bytes = image.memory_bytes != 0 ? image.memory_bytes : config.memory_bytes;
    if (!own_kernel && !image.kernel.empty()) {
        STRATA_TRY_VOID(
            open_file(plan, config.kernel, "kernel", image.folder + "/" + image.kernel));
        if (!image.initrd.empty()) {
            STRATA_TRY_VOID(
                open_file(plan, config.initrd, "initrd", image.folder + "/" + image.initrd));
        }
    }
    for (const std::string& file : image.disks) {
        api::DiskText disk;
        disk.file.name = image.folder + "/" + file;
        STRATA_TRY_VOID(open_disk(plan, std::move(disk)));
    }
    return ok();
}

// Left in the environment for the VMM process, with what is there.
Result<> apply_trace(std::string_view stages) {
    constexpr std::array<std::string_view, 4> kStages = {"decode", "blocks", "code", "exits"};
    const char* variable =
        std::getenv("STRATA_TRANSLATOR");  // NOLINT(concurrency-mt-unsafe): before any thread
    std::string words(variable == nullptr ? "" : variable);
    for (const std::string_view stage : split(stages, ',')) {
        if (std::find(kStages.begin(), kStages.end(), stage) == kStages.end()) {
            return Error{
                ErrorKind::InvalidArgument,
                fmt::format("--trace {}: use decode, blocks, code, exits, with commas", stage)};
        }
        words += fmt::format("{}trace-{}", words.empty() ? "" : ",", stage);
    }
    (void)setenv("STRATA_TRANSLATOR", words.c_str(),
                 1);  // NOLINT(concurrency-mt-unsafe): before any thread; only fails without memory
    return ok();
}

Result<> apply_processor(const Arguments& arguments, api::MachineConfig& config) {
    if (const auto text = arguments.value("--engine")) {
        config.engine = STRATA_TRY(api::engine_from_text(*text));
    }
    config.cpu_model = std::string(arguments.value("--cpu").value_or(config.cpu_model));
    if (const auto text = arguments.value("--cpus")) {
        config.cpus = STRATA_TRY(api::parse_cpus(*text));
    }
    if (const auto text = arguments.value("--memory")) {
        auto bytes = parse_size(*text, 1U << 20);
        if (!bytes) {
            return std::move(bytes).error().context("--memory");
        }
        config.memory_bytes = *bytes;
    }
    config.interpret_only = arguments.flag("--interpret-only");
    if (const auto stages = arguments.value("--trace")) {
        return apply_trace(*stages);
    }
    return ok();
}

Result<> apply_boot(const Arguments& arguments, Plan& plan) {
    api::MachineConfig& config = plan.request.config;
    if (const auto path = arguments.value("--profile")) {
        config.profile.name = *path;
        UniqueFd fd(open(config.profile.name.c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666));
        if (!fd.valid()) {
            return Error::from_errno(fmt::format("profile '{}'", *path));
        }
        config.profile.fd = plan.add(std::move(fd));
    }
    if (const auto path = arguments.value("--kernel")) {
        STRATA_TRY_VOID(open_file(plan, config.kernel, "kernel", std::string(*path)));
    }
    if (const auto path = arguments.value("--initrd")) {
        STRATA_TRY_VOID(open_file(plan, config.initrd, "initrd", std::string(*path)));
    }
    if (const auto text = arguments.value("--kernel-entry")) {
        config.kernel_entry = STRATA_TRY(api::kernel_entry_from_text(*text));
    }
    if (const auto text = arguments.value("--append")) {
        config.append += fmt::format("{}{}", config.append.empty() ? "" : " ", *text);
    }
    if (config.kernel.fd == api::kNoFile) {
        return Error{ErrorKind::InvalidArgument,
                     "nothing to boot: name an image (strata image list) or give --kernel FILE"};
    }
    return ok();
}

// One of serial port and console has this terminal: the serial port, unless the console asks for
// it.
Result<> apply_terminal(const Arguments& arguments, SessionRequest& request) {
    request.console =
        STRATA_TRY(api::parse_serial("--console", arguments.value("--console").value_or("none")));
    const bool taken = request.console.kind == api::SerialKind::Stdio;
    request.serial = STRATA_TRY(api::parse_serial(
        "--serial", arguments.value("--serial").value_or(taken ? "none" : "stdio")));
    if (taken && request.serial.kind == api::SerialKind::Stdio) {
        return Error{ErrorKind::InvalidArgument,
                     "--serial stdio and --console stdio: only one of them can have the terminal"};
    }
    return ok();
}

Result<> apply_devices(const Arguments& arguments, Plan& plan) {
    for (const std::string_view text : arguments.values("--object")) {
        STRATA_TRY_VOID(plan.secrets.add(text));
    }
    for (const std::string_view text : arguments.values("--disk")) {
        api::DiskText disk = STRATA_TRY(api::parse_disk(text));
        STRATA_TRY_VOID(open_disk(plan, std::move(disk)));
    }
    for (const std::string_view path : arguments.values("--cdrom")) {
        api::DiskText disc;
        disc.format.clear();
        disc.file.name = path;
        disc.bus = api::DiskBus::Sata;
        disc.cdrom = disc.read_only = true;
        STRATA_TRY_VOID(open_disk(plan, std::move(disc)));
    }
    if (!arguments.flag("--net")) {
        plan.request.config.nets.emplace_back();
    }
    for (const std::string_view text : arguments.values("--net")) {
        if (text == "none" && arguments.values("--net").size() > 1) {
            return Error{ErrorKind::InvalidArgument,
                         "--net none cannot stand beside another --net"};
        }
        STRATA_TRY_VOID(api::parse_net(text, plan.request.config.nets));
    }
    return apply_terminal(arguments, plan.request);
}

// A name makes the machine one that can be reached, where that is possible.
Result<> apply_control(const Arguments& arguments, Plan& plan) {
    if (const auto path = arguments.value("--control")) {
        plan.request.control = path->find('/') == std::string_view::npos
                                   ? fmt::format("./{}", *path)
                                   : std::string(*path);
        plan.request.control = STRATA_TRY(control_path(plan.request.control));
        return ok();
    }
    const auto name = arguments.value("--name");
    const auto folder = control_folder();
    if (!name || !folder) {
        return ok();
    }
    auto path = control_path(*name);
    if (!path || (mkdir(folder->c_str(), 0700) != 0 && errno != EEXIST)) {
        notice(fmt::format("'{}' cannot be reached by other commands: {}", *name,
                           path ? Error::from_errno(*folder).text() : path.error().text()));
        return ok();
    }
    plan.request.control = std::move(*path);
    return ok();
}

Result<> check_name(std::string_view name) {
    const bool good = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
        return static_cast<unsigned char>(c) > ' ' && c != '/' && c != '\x7f';
    });
    return good ? ok()
                : Result<>(Error{ErrorKind::InvalidArgument,
                                 fmt::format("--name '{}': a name is one word without '/'", name)});
}

Result<> apply_run(const Arguments& arguments, Plan& plan) {
    api::MachineConfig& config = plan.request.config;
    config.reboot = !arguments.flag("--no-reboot");
    config.debug_exit = arguments.flag("--debug-exit");
    config.name = std::string(arguments.value("--name").value_or(config.name));
    if (arguments.value("--name")) {
        STRATA_TRY_VOID(check_name(config.name));
    }
    STRATA_TRY_VOID(apply_control(arguments, plan));
    plan.request.as_json = arguments.flag("--json");
    plan.request.stop_grace = std::chrono::seconds(kStopGrace);
    if (const auto text = arguments.value("--stop-grace")) {
        auto seconds = parse_integer(*text, 0, kMaxStopGrace);
        if (!seconds) {
            return std::move(seconds).error().context("--stop-grace");
        }
        plan.request.stop_grace = std::chrono::seconds(*seconds);
    }
    if (const auto text = arguments.value("--timeout")) {
        auto seconds = parse_integer(*text, 1, kMaxTimeout);
        if (!seconds) {
            return std::move(seconds).error().context("--timeout");
        }
        plan.request.time_limit = std::chrono::seconds(*seconds);
    }
    return ok();
}

Result<int> run(const Arguments& arguments) {
    Plan plan;
    STRATA_TRY_VOID(apply_processor(
        arguments, plan.request.config));  // cheap mistakes first, before files are opened
    if (const auto image = arguments.positional(0)) {
        STRATA_TRY_VOID(apply_image(plan, *image, arguments.flag("--kernel")));
        STRATA_TRY_VOID(apply_processor(
            arguments, plan.request.config));  // what was asked for overrides the image
    }
    STRATA_TRY_VOID(apply_run(arguments, plan));
    STRATA_TRY_VOID(apply_devices(arguments, plan));
    STRATA_TRY_VOID(apply_boot(arguments, plan));
    STRATA_TRY_VOID(api::validate(plan.request.config));
    for (const std::string& text : plan.notices) {
        notice(text);
    }
    return run_session(std::move(plan.request));
}

}  // namespace

const Command kRunCommand = {
    .name = "run",
    .summary = "Run a virtual machine until it powers off",
    .description =
        "Boots an image, or a kernel of your own, and connects its first serial port to this "
        "terminal. The machine lives in a\n"
        "process of its own and ends with this command: by the guest's poweroff, by Ctrl-] or a "
        "signal (twice if the guest listens to its\n"
        "power button and takes its time), or when the terminal is closed. A line on standard "
        "error says which engine runs it and why (--quiet: not). Disks are changed in place.\n"
        "Exit status: 0 the guest powered off, 7 the time limit passed, 10 it panicked or "
        "triple-faulted; others as for every command.",
    .positionals = kPositionals,
    .options = kOptions,
    .examples =
        "  strata run tiny --cpus 2 --memory 512M\n"
        "  strata run debian:12 --net user,forward=tcp:2222:22\n"
        "  strata run --kernel bzImage --initrd initrd.img --append 'console=ttyS0' --disk "
        "root.raw,readonly\n"
        "  strata run tiny --engine soft --append strata.selfcheck --timeout 300 </dev/null",
    .run = run,
};

}  // namespace strata::cli
