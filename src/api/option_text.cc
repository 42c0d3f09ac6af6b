// Option texts: parsing.
#include "api/option_text.h"

#include <algorithm>
#include <array>
#include <utility>

#include <arpa/inet.h>
#include <fmt/format.h>

#include "base/text.h"

namespace strata::api {
namespace {

Error invalid(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text)};
}

// Splits at single commas; a doubled one stands for itself.
std::vector<std::string> split_commas(std::string_view text) {
    std::vector<std::string> parts(1);
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != ',') {
            parts.back() += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == ',') {
            parts.back() += ',';
            ++i;
        } else {
            parts.emplace_back();
        }
    }
    return parts;
}

Result<std::uint16_t> parse_port(std::string_view text) {
    return static_cast<std::uint16_t>(STRATA_TRY(parse_integer(text, 1, 65535)));
}

// "iops=100", "bps-read=10M".
Result<DiskLimit> parse_limit(std::string_view text) {
    const auto equals = text.find('=');
    if (equals == std::string_view::npos) {
        return invalid(fmt::format("'{}' needs a number: write e.g. {}=100", text, text));
    }
    DiskLimit limit{std::string(text.substr(0, equals)), 0};
    auto value = parse_size(text.substr(equals + 1));
    if (!value) {
        return std::move(value).error().context(limit.name);
    }
    limit.value = *value;
    return limit;
}

bool is_ipv4(const std::string& text) {
    in_addr address{};
    return inet_pton(AF_INET, text.c_str(), &address) == 1;
}

Result<> set_mode(DiskText& disk, const std::string& value) {
    constexpr std::array<std::pair<std::string_view, DiskMode>, 4> kModes{{
        {"persistent", DiskMode::Persistent},
        {"readonly", DiskMode::Persistent},
        {"nonpersistent", DiskMode::Nonpersistent},
        {"undoable", DiskMode::Undoable},
    }};
    for (const auto& [name, mode] : kModes) {
        if (name == value) {
            disk.mode = mode;
            disk.read_only = disk.read_only || value == "readonly";
            return ok();
        }
    }
    return invalid(
        fmt::format("'{}' is no mode: use persistent, readonly, nonpersistent or undoable", value));
}

Result<> set_media(DiskText& disk, const std::string& value) {
    if (value != "disk" && value != "cdrom") {
        return invalid(fmt::format("'{}' is neither disk nor cdrom", value));
    }
    disk.cdrom = value == "cdrom";
    return ok();
}

Result<> set_key_secret(DiskText& disk, const std::string& value) {
    disk.key_secret = value;
    return value.empty() ? Result<>(invalid("name a secret: --object secret,id=ID,file=FILE"))
                         : ok();
}

/// An option of a disk with a value, as people write it.
struct DiskOption {
    std::string_view name;
    Result<> (*set)(DiskText& disk, const std::string& value);
};

constexpr std::array kDiskOptions{
    DiskOption{"format",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.format = value;
                   return ok();
               }},
    DiskOption{"bus",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.bus = STRATA_TRY(disk_bus_from_text(value));
                   return ok();
               }},
    DiskOption{"serial",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.serial = value;
                   return ok();
               }},
    DiskOption{"queues",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.queues = static_cast<std::uint32_t>(
                       STRATA_TRY(parse_integer(value, 1, kMaxDiskQueues)));
                   return ok();
               }},
    DiskOption{"key-secret", set_key_secret},
    DiskOption{"encrypt.key-secret", set_key_secret},
    DiskOption{"media", set_media},
    DiskOption{"mode", set_mode},
    DiskOption{"limit-group",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.limit_group = value;
                   return ok();
               }},
    DiskOption{"rerror",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.read_errors = STRATA_TRY(read_errors_from_text(value));
                   return ok();
               }},
    DiskOption{"werror",
               [](DiskText& disk, const std::string& value) -> Result<> {
                   disk.write_errors = STRATA_TRY(write_errors_from_text(value));
                   return ok();
               }},
};

constexpr std::array kDiskFlags{
    std::pair<std::string_view, bool DiskText::*>{"readonly", &DiskText::read_only},
    std::pair<std::string_view, bool DiskText::*>{"follow", &DiskText::follow},
};

/// Of exports of NBD servers; what they mean is not looked at here.
constexpr std::array<std::string_view, 7> kExportOptions{
    "reconnect-delay", "open-timeout", "tls-certificates", "tls-hostname",
    "tls-psk",         "tls-user",     "tls-verify"};

Result<> parse_disk_option(std::string_view text, DiskText& disk) {
    const auto equals = text.find('=');
    const std::string_view name = text.substr(0, equals);
    if (is_disk_limit(name)) {
        disk.limits.push_back(STRATA_TRY(parse_limit(text)));
        return ok();
    }
    for (const auto& [flag, member] : kDiskFlags) {
        if (flag == text) {
            disk.*member = true;
            return ok();
        }
    }
    for (const std::string_view each : kExportOptions) {
        if (each == name && equals != std::string_view::npos) {
            disk.nbd.emplace_back(name, text.substr(equals + 1));
            return ok();
        }
    }
    for (const DiskOption& option : kDiskOptions) {
        if (option.name == name && equals != std::string_view::npos) {
            auto set = option.set(disk, std::string(text.substr(equals + 1)));
            return set ? ok() : std::move(set).error().context(std::string(name));
        }
    }
    std::string known;
    for (const auto& [flag, member] : kDiskFlags) {
        known += fmt::format("{}, ", flag);
    }
    for (const DiskOption& option : kDiskOptions) {
        known += fmt::format("{}=, ", option.name);
    }
    return invalid(
        fmt::format("'{}' is wrong: use {}iops=, bps= (a comma in a name: ,,)", text, known));
}

}  // namespace

Result<CpuTopology> parse_cpus(std::string_view text) {
    CpuTopology cpus;
    if (text.find('=') == std::string_view::npos) {
        auto count = parse_integer(text, 1, kMaxVcpus);
        if (!count) {
            return invalid(fmt::format(
                "--cpus {}: must be a number from 1 to {}, or sockets=,cores=,threads=", text,
                kMaxVcpus));
        }
        cpus.cores = static_cast<std::uint32_t>(*count);
        return cpus;
    }
    std::vector<std::string_view> seen;
    for (const std::string_view part : split(text, ',')) {
        const auto equals = part.find('=');
        const std::string_view key = part.substr(0, equals);
        const std::string_view value =
            equals == std::string_view::npos ? "" : part.substr(equals + 1);
        const bool again = std::find(seen.begin(), seen.end(), key) != seen.end();
        seen.push_back(key);
        std::uint32_t* target = key == "sockets"   ? &cpus.sockets
                                : key == "cores"   ? &cpus.cores
                                : key == "threads" ? &cpus.threads
                                                   : nullptr;
        auto count = parse_integer(value, 1, kMaxVcpus);
        if (target == nullptr || !count || again) {
            return invalid(fmt::format(
                "--cpus {}: '{}' is wrong: write e.g. sockets=1,cores=4,threads=2", text, part));
        }
        *target = static_cast<std::uint32_t>(*count);
    }
    if (cpus.count() > kMaxVcpus) {
        return invalid(fmt::format("--cpus {}: {} virtual CPUs are more than {}", text,
                                   cpus.count(), kMaxVcpus));
    }
    return cpus;
}

Result<DiskText> parse_disk(std::string_view text) {
    const std::vector<std::string> parts = split_commas(text);
    DiskText disk;
    disk.format.clear();
    disk.file.name = parts.front();
    if (disk.file.name.empty()) {
        return invalid(
            fmt::format("--disk '{}': no file: write e.g. --disk root.raw,readonly", text));
    }
    for (std::size_t i = 1; i < parts.size(); ++i) {
        if (auto parsed = parse_disk_option(parts[i], disk); !parsed) {
            return std::move(parsed).error().context(fmt::format("--disk {}", text));
        }
    }
    if (disk.mode != DiskMode::Persistent && (disk.read_only || disk.cdrom)) {
        return invalid(fmt::format("--disk {}: what is read-only needs no such mode", text));
    }
    if (disk.cdrom) {
        disk.read_only = true;
        disk.bus = disk.bus == DiskBus::Virtio ? DiskBus::Sata : disk.bus;
    }
    return disk;
}

Result<SecretText> parse_secret(std::string_view text) {
    const std::vector<std::string> parts = split_commas(text);
    const auto wrong = [text](std::string_view what) {
        // Without the text: it may hold a passphrase.
        const std::string_view type = text.substr(0, text.find(','));
        return invalid(
            fmt::format("--object {}: {}: write e.g. secret,id=key0,file=key.txt", type, what));
    };
    SecretText secret;
    if (parts.front() != "secret" && parts.front() != "qom-type=secret") {
        return wrong("only secrets are known");
    }
    for (std::size_t i = 1; i < parts.size(); ++i) {
        const auto equals = parts[i].find('=');
        const std::string name = parts[i].substr(0, equals);
        std::string value = equals == std::string::npos ? "" : parts[i].substr(equals + 1);
        if (name == "data") {
            return wrong(
                "a secret on a command line is everybody's who lists processes: it comes "
                "from a file");
        }
        if (name == "format" && (value == "raw" || value == "base64")) {
            secret.base64 = value == "base64";
            continue;
        }
        std::string* target = name == "id"      ? &secret.id
                              : name == "file"  ? &secret.file
                              : name == "keyid" ? &secret.key_id
                              : name == "iv"    ? &secret.iv
                                                : nullptr;
        if (target == nullptr) {
            return wrong(fmt::format("'{}' is wrong", name));
        }
        *target = std::move(value);
    }
    return secret.id.empty() || secret.file.empty() ? Result<SecretText>(wrong("id= and file="))
                                                    : Result<SecretText>(std::move(secret));
}

Result<PortForward> parse_forward(std::string_view text) {
    PortForward forward;
    std::vector<std::string_view> parts = split(text, ':');
    const Error wrong =
        invalid(fmt::format("forward={}: write e.g. tcp:2222:22 or udp:127.0.0.1:5353:53", text));
    if (!parts.empty() && (parts.front() == "tcp" || parts.front() == "udp")) {
        forward.protocol = parts.front() == "udp" ? Protocol::Udp : Protocol::Tcp;
        parts.erase(parts.begin());
    }
    if (parts.size() == 3) {
        forward.host_address = std::string(parts.front());
        parts.erase(parts.begin());
    }
    if (parts.size() != 2 || !is_ipv4(forward.host_address)) {
        return wrong;
    }
    auto host = parse_port(parts[0]);
    auto guest = parse_port(parts[1]);
    if (!host || !guest) {
        return wrong;
    }
    forward.host_port = *host;
    forward.guest_port = *guest;
    return forward;
}

Result<> parse_net(std::string_view text, std::vector<NetConfig>& nets) {
    const std::vector<std::string_view> parts = split(text, ',');
    const std::string_view kind = parts.empty() ? "" : parts.front();
    if (kind == "none" && parts.size() == 1) {
        return ok();
    }
    if (kind != "user") {
        return invalid(fmt::format("--net {}: use none or user[,forward=tcp:2222:22]", text));
    }
    NetConfig net;
    for (std::size_t i = 1; i < parts.size(); ++i) {
        if (!parts[i].starts_with("forward=")) {
            return invalid(
                fmt::format("--net {}: '{}' is wrong: use forward=tcp:2222:22", text, parts[i]));
        }
        net.forwards.push_back(STRATA_TRY(parse_forward(parts[i].substr(8))));
    }
    if (net.forwards.size() > kMaxForwards || nets.size() >= kMaxNets) {
        return invalid(fmt::format("--net: at most {} interfaces with {} forwards each", kMaxNets,
                                   kMaxForwards));
    }
    nets.push_back(std::move(net));
    return ok();
}

Result<SerialTarget> parse_serial(std::string_view option, std::string_view text) {
    SerialTarget target;
    target.option = std::string(option);
    if (text == "none") {
        return target;
    }
    if (text == "stdio" || text == "pty") {
        target.kind = text == "stdio" ? SerialKind::Stdio : SerialKind::Pty;
        return target;
    }
    if ((text.starts_with("file:") || text.starts_with("unix:")) && text.size() > 5) {
        target.kind = text.starts_with("file:") ? SerialKind::File : SerialKind::Unix;
        target.path = std::string(text.substr(5));
        return target;
    }
    return invalid(
        fmt::format("{} {}: use stdio, pty, file:PATH, unix:PATH or none", option, text));
}

}  // namespace strata::api
