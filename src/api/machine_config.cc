// MachineConfig: limits, and the way to JSON and back.
#include "api/machine_config.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "base/text.h"

namespace strata::api {
namespace {

constexpr std::array<std::pair<EngineChoice, std::string_view>, 3> kEngines = {{
    {EngineChoice::Auto, "auto"},
    {EngineChoice::Kvm, "kvm"},
    {EngineChoice::Soft, "soft"},
}};

constexpr std::array<std::pair<KernelEntry, std::string_view>, 3> kKernelEntries = {{
    {KernelEntry::Auto, "auto"},
    {KernelEntry::Decompress, "decompress"},
    {KernelEntry::Stub, "stub"},
}};

constexpr std::array<std::pair<WriteErrors, std::string_view>, 4> kWriteErrors = {{
    {WriteErrors::Enospc, "enospc"},
    {WriteErrors::Report, "report"},
    {WriteErrors::Stop, "stop"},
    {WriteErrors::Ignore, "ignore"},
}};

constexpr std::array<std::pair<DiskBus, std::string_view>, 3> kDiskBuses = {{
    {DiskBus::Virtio, "virtio"},
    {DiskBus::Scsi, "scsi"},
    {DiskBus::Sata, "sata"},
}};

Error invalid(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text)};
}

Json file_to_json(const FileRef& file) {
    return Json{{"name", file.name}, {"fd", file.fd}};
}

Json disk_to_json(const DiskConfig& disk) {
    Json json{{"file", file_to_json(disk.file)},
              {"format", disk.format},
              {"bus", to_text(disk.bus)},
              {"queues", disk.queues},
              {"cdrom", disk.cdrom},
              {"read_only", disk.read_only},
              {"follow", disk.follow},
              {"pinned", disk.pinned},
              {"write_errors", to_text(disk.write_errors)},
              {"read_errors", to_text(disk.read_errors)}};
    if (!disk.serial.empty()) {
        json["serial"] = disk.serial;
    }
    if (disk.passphrase_fd != kNoFile) {
        json["passphrase_fd"] = disk.passphrase_fd;
    }
    for (const auto& [name, value] : disk.nbd) {
        json["nbd"][name] = value;
    }
    for (const DiskLimit& limit : disk.limits) {
        json["limits"][limit.name] = limit.value;
    }
    if (!disk.limit_group.empty()) {
        json["limit_group"] = disk.limit_group;
    }
    return json;
}

/// {"iops": 100, …}.
Result<std::vector<DiskLimit>> read_limits(const Json& json, const std::string& path) {
    ObjectReader reader(json, path);
    std::vector<DiskLimit> limits;
    for (const auto& item : json.items()) {
        if (!is_disk_limit(item.key())) {
            reader.reject(item.key(), "is no limit of a disk");
        }
        limits.push_back({item.key(), reader.number(item.key(), 0, 0, INT64_MAX)});
    }
    STRATA_TRY_VOID(reader.finish());
    return limits;
}

/// {"server.host": "h", …}.
Result<std::vector<std::pair<std::string, std::string>>> read_location(const Json& json,
                                                                       const std::string& path) {
    ObjectReader reader(json, path);
    std::vector<std::pair<std::string, std::string>> options;
    for (const auto& item : json.items()) {
        options.emplace_back(item.key(), reader.text(item.key()));
    }
    STRATA_TRY_VOID(reader.finish());
    return options;
}

Json net_to_json(const NetConfig& net) {
    Json forwards = Json::array();
    for (const PortForward& forward : net.forwards) {
        forwards.push_back({{"protocol", forward.protocol == Protocol::Tcp ? "tcp" : "udp"},
                            {"host_address", forward.host_address},
                            {"host_port", forward.host_port},
                            {"guest_port", forward.guest_port}});
    }
    return Json{{"forwards", std::move(forwards)}};
}

std::int64_t read_fd(ObjectReader& reader, std::string_view name, std::size_t fds) {
    const std::int64_t fd = reader.integer(name, kNoFile);
    if (fd != kNoFile && (fd < 0 || static_cast<std::uint64_t>(fd) >= fds)) {
        reader.reject(name, "names a descriptor that was not passed");
        return kNoFile;
    }
    return fd;
}

Result<FileRef> read_file(const Json& json, std::string path, std::size_t fds) {
    ObjectReader reader(json, std::move(path));
    FileRef file;
    file.name = reader.text("name");
    file.fd = read_fd(reader, "fd", fds);
    STRATA_TRY_VOID(reader.finish());
    return file;
}

Result<DiskConfig> read_disk(const Json& json, const std::string& path, std::size_t fds) {
    ObjectReader reader(json, path);
    DiskConfig disk;
    if (const Json* file = reader.member("file")) {
        disk.file = STRATA_TRY(read_file(*file, reader.path_of("file"), fds));
    }
    disk.format = reader.text("format", disk.format);
    disk.bus = STRATA_TRY(disk_bus_from_text(reader.text("bus", "virtio")));
    disk.serial = reader.text("serial");
    disk.queues = static_cast<std::uint32_t>(reader.number("queues", 1, 1, kMaxDiskQueues));
    disk.cdrom = reader.boolean("cdrom", disk.cdrom);
    disk.read_only = reader.boolean("read_only", disk.read_only);
    disk.follow = reader.boolean("follow", disk.follow);
    disk.pinned = reader.boolean("pinned", disk.pinned);
    disk.passphrase_fd = read_fd(reader, "passphrase_fd", fds);
    disk.write_errors = STRATA_TRY(write_errors_from_text(reader.text("write_errors", "enospc")));
    disk.read_errors = STRATA_TRY(read_errors_from_text(reader.text("read_errors", "report")));
    disk.limit_group = reader.text("limit_group");
    if (const Json* nbd = reader.member("nbd")) {
        disk.nbd = STRATA_TRY(read_location(*nbd, reader.path_of("nbd")));
    }
    if (const Json* limits = reader.member("limits")) {
        disk.limits = STRATA_TRY(read_limits(*limits, reader.path_of("limits")));
    }
    STRATA_TRY_VOID(reader.finish());
    return disk;
}

Result<PortForward> read_forward(const Json& json, const std::string& path) {
    ObjectReader reader(json, path);
    PortForward forward;
    const std::string protocol = reader.text("protocol", "tcp");
    if (protocol != "tcp" && protocol != "udp") {
        reader.reject("protocol", "must be tcp or udp");
    }
    forward.protocol = protocol == "udp" ? Protocol::Udp : Protocol::Tcp;
    forward.host_address = reader.text("host_address", forward.host_address);
    forward.host_port = static_cast<std::uint16_t>(reader.number("host_port", 0, 1, 65535));
    forward.guest_port = static_cast<std::uint16_t>(reader.number("guest_port", 0, 1, 65535));
    STRATA_TRY_VOID(reader.finish());
    return forward;
}

Result<NetConfig> read_net(const Json& json, const std::string& path) {
    ObjectReader reader(json, path);
    NetConfig net;
    std::size_t place = 0;
    for (const Json* element : reader.array("forwards", kMaxForwards)) {
        net.forwards.push_back(
            STRATA_TRY(read_forward(*element, fmt::format("{}.forwards[{}]", path, place++))));
    }
    STRATA_TRY_VOID(reader.finish());
    return net;
}

Result<ConsoleConfig> read_console(const Json& json, std::size_t fds) {
    ObjectReader reader(json, "console");
    ConsoleConfig console;
    console.fd = read_fd(reader, "fd", fds);
    console.columns =
        static_cast<std::uint16_t>(reader.number("columns", console.columns, 1, UINT16_MAX));
    console.rows = static_cast<std::uint16_t>(reader.number("rows", console.rows, 1, UINT16_MAX));
    STRATA_TRY_VOID(reader.finish());
    return console;
}

Result<CpuTopology> read_cpus(const Json& json) {
    ObjectReader reader(json, "cpus");
    CpuTopology cpus;
    cpus.sockets = static_cast<std::uint32_t>(reader.number("sockets", 1, 1, kMaxVcpus));
    cpus.cores = static_cast<std::uint32_t>(reader.number("cores", 1, 1, kMaxVcpus));
    cpus.threads = static_cast<std::uint32_t>(reader.number("threads", 1, 1, kMaxVcpus));
    STRATA_TRY_VOID(reader.finish());
    return cpus;
}

Result<> read_parts(ObjectReader& reader, MachineConfig& config, std::size_t fds) {
    if (const Json* cpus = reader.member("cpus")) {
        config.cpus = STRATA_TRY(read_cpus(*cpus));
    }
    if (const Json* profile = reader.member("profile")) {
        config.profile = STRATA_TRY(read_file(*profile, "profile", fds));
    }
    if (const Json* kernel = reader.member("kernel")) {
        config.kernel = STRATA_TRY(read_file(*kernel, "kernel", fds));
    }
    if (const Json* initrd = reader.member("initrd")) {
        config.initrd = STRATA_TRY(read_file(*initrd, "initrd", fds));
    }
    if (const Json* console = reader.member("console")) {
        config.console = STRATA_TRY(read_console(*console, fds));
    }
    std::size_t place = 0;
    for (const Json* element : reader.array("disks", kMaxDisks)) {
        config.disks.push_back(
            STRATA_TRY(read_disk(*element, fmt::format("disks[{}]", place++), fds)));
    }
    place = 0;
    for (const Json* element : reader.array("nets", kMaxNets)) {
        config.nets.push_back(STRATA_TRY(read_net(*element, fmt::format("nets[{}]", place++))));
    }
    return ok();
}

}  // namespace

bool is_disk_limit(std::string_view name) {
    constexpr std::array<std::string_view, 6> kLimits = {"iops", "iops-read", "iops-write",
                                                         "bps",  "bps-read",  "bps-write"};
    for (const std::string_view ending : {"-max-length", "-max"}) {
        if (name.ends_with(ending)) {
            name.remove_suffix(ending.size());
            break;
        }
    }
    return name == "iops-size" || std::find(kLimits.begin(), kLimits.end(), name) != kLimits.end();
}

std::string_view to_text(EngineChoice engine) {
    return kEngines.at(static_cast<std::size_t>(engine)).second;
}

Result<EngineChoice> engine_from_text(std::string_view text) {
    for (const auto& [engine, name] : kEngines) {
        if (name == text) {
            return engine;
        }
    }
    return invalid(fmt::format("'{}' is not an engine: use auto, kvm or soft", text));
}

std::string_view to_text(KernelEntry entry) {
    return kKernelEntries.at(static_cast<std::size_t>(entry)).second;
}

Result<KernelEntry> kernel_entry_from_text(std::string_view text) {
    for (const auto& [entry, name] : kKernelEntries) {
        if (name == text) {
            return entry;
        }
    }
    return invalid(
        fmt::format("'{}' is no way to enter a kernel: use auto, decompress or stub", text));
}

std::string_view to_text(DiskBus bus) {
    return kDiskBuses.at(static_cast<std::size_t>(bus)).second;
}

Result<DiskBus> disk_bus_from_text(std::string_view text) {
    for (const auto& [bus, name] : kDiskBuses) {
        if (name == text) {
            return bus;
        }
    }
    return invalid(fmt::format("'{}' is no bus for disks: use virtio, scsi or sata", text));
}

std::string_view to_text(ReadErrors policy) {
    return policy == ReadErrors::Stop ? "stop" : "report";
}

Result<ReadErrors> read_errors_from_text(std::string_view text) {
    if (text != "report" && text != "stop") {
        return invalid(fmt::format("'{}' is no answer to read errors: use report or stop", text));
    }
    return text == "stop" ? ReadErrors::Stop : ReadErrors::Report;
}

std::string_view to_text(WriteErrors policy) {
    return kWriteErrors.at(static_cast<std::size_t>(policy)).second;
}

Result<WriteErrors> write_errors_from_text(std::string_view text) {
    for (const auto& [policy, name] : kWriteErrors) {
        if (name == text) {
            return policy;
        }
    }
    return invalid(
        fmt::format("'{}' is no answer to write errors: use enospc, report, stop or ignore", text));
}

namespace {

Result<> validate_disk(const DiskConfig& disk) {
    const auto wrong = [&disk](std::string_view what) {
        return invalid(fmt::format("disk '{}': {}", disk.file.name, what));
    };
    if (disk.queues < 1 || disk.queues > kMaxDiskQueues) {
        return wrong(fmt::format("{} queues: from 1 to {}", disk.queues, kMaxDiskQueues));
    }
    if (disk.queues > 1 && disk.bus == DiskBus::Sata) {
        return wrong("a SATA disk has one queue");
    }
    if (disk.cdrom && (disk.bus == DiskBus::Virtio || !disk.read_only)) {
        return wrong("a CD-ROM hangs on bus sata or scsi, and is read-only");
    }
    if (disk.passphrase_fd != kNoFile && disk.format == "raw") {
        return wrong("a raw disk has no passphrase: name its format (luks, qcow2)");
    }
    const bool plain = std::all_of(disk.serial.begin(), disk.serial.end(),
                                   [](char c) { return c > ' ' && c < 0x7f; });
    if (disk.serial.size() > kMaxSerial || !plain) {
        return wrong(fmt::format("serial number '{}': at most {} letters, digits and signs",
                                 disk.serial, kMaxSerial));
    }
    return ok();
}

}  // namespace

Result<> validate(const MachineConfig& config) {
    const std::uint64_t count = config.cpus.count();
    if (count < 1 || count > kMaxVcpus) {
        return invalid(
            fmt::format("{} virtual CPUs: a machine has from 1 to {}", count, kMaxVcpus));
    }
    if (config.memory_bytes < kMinMemory || config.memory_bytes > kMaxMemory ||
        config.memory_bytes % 4096 != 0) {
        return invalid(fmt::format("memory of {}: must be from {} to {}, in whole pages of 4 KiB",
                                   config.memory_bytes % 4096 == 0
                                       ? format_size(config.memory_bytes)
                                       : fmt::format("{} bytes", config.memory_bytes),
                                   format_size(kMinMemory), format_size(kMaxMemory)));
    }
    if (config.append.size() > kMaxAppend) {
        return invalid(fmt::format("kernel command line of {} bytes: the limit is {}",
                                   config.append.size(), kMaxAppend));
    }
    if (config.append.find_first_of(std::string_view("\0\n", 2)) != std::string::npos) {
        return invalid("kernel command line: must be one line of text");
    }
    if (config.name.empty() || config.name.size() > 64) {
        return invalid("name: must have from 1 to 64 characters");
    }
    if (config.disks.size() > kMaxDisks || config.nets.size() > kMaxNets) {
        return invalid(fmt::format("a machine has at most {} disks and {} network interfaces",
                                   kMaxDisks, kMaxNets));
    }
    for (const DiskConfig& disk : config.disks) {
        STRATA_TRY_VOID(validate_disk(disk));
    }
    return ok();
}

Json to_json(const MachineConfig& config) {
    Json disks = Json::array();
    for (const DiskConfig& disk : config.disks) {
        disks.push_back(disk_to_json(disk));
    }
    Json nets = Json::array();
    for (const NetConfig& net : config.nets) {
        nets.push_back(net_to_json(net));
    }
    return Json{{"name", config.name},
                {"engine", to_text(config.engine)},
                {"interpret_only", config.interpret_only},
                {"profile", file_to_json(config.profile)},
                {"cpu_model", config.cpu_model},
                {"cpus",
                 {{"sockets", config.cpus.sockets},
                  {"cores", config.cpus.cores},
                  {"threads", config.cpus.threads}}},
                {"memory_bytes", config.memory_bytes},
                {"kernel", file_to_json(config.kernel)},
                {"initrd", file_to_json(config.initrd)},
                {"kernel_entry", to_text(config.kernel_entry)},
                {"append", config.append},
                {"disks", std::move(disks)},
                {"nets", std::move(nets)},
                {"serial_fd", config.serial_fd},
                {"console",
                 {{"fd", config.console.fd},
                  {"columns", config.console.columns},
                  {"rows", config.console.rows}}},
                {"reboot", config.reboot},
                {"debug_exit", config.debug_exit}};
}

Result<MachineConfig> machine_config_from_json(const Json& json, std::size_t fds) {
    ObjectReader reader(json, "");
    MachineConfig config;
    config.name = reader.text("name", config.name);
    config.engine = STRATA_TRY(engine_from_text(reader.text("engine", "auto")));
    config.interpret_only = reader.boolean("interpret_only", false);
    config.cpu_model = reader.text("cpu_model", config.cpu_model);
    config.memory_bytes = reader.number("memory_bytes", config.memory_bytes, 0, UINT64_MAX);
    config.kernel_entry = STRATA_TRY(kernel_entry_from_text(reader.text("kernel_entry", "auto")));
    config.append = reader.text("append");
    config.serial_fd = read_fd(reader, "serial_fd", fds);
    config.reboot = reader.boolean("reboot", true);
    config.debug_exit = reader.boolean("debug_exit", false);
    STRATA_TRY_VOID(read_parts(reader, config, fds));
    STRATA_TRY_VOID(reader.finish());
    STRATA_TRY_VOID(validate(config));
    return config;
}

}  // namespace strata::api
