// Settings: the peer's options and what it refuses.
#include "qemu_nbd/settings.h"

#include <array>
#include <cstdlib>

#include <fmt/format.h>
#include <unistd.h>

#include "base/text.h"
#include "block/nbd/wire.h"
#include "qemu_img/report.h"

namespace strata::qemu_nbd {
namespace {

using qemu_img::Arguments;
using qemu_img::failure;
using qemu_img::OptionSpec;
namespace nbd = block::nbd;

constexpr std::string_view kSeeHelp = "Try `qemu-nbd --help' for more information.";

constexpr std::array kOptions = {
    OptionSpec{'V', "version", false},
    OptionSpec{'b', "bind", true},
    OptionSpec{'p', "port", true},
    OptionSpec{'k', "socket", true},
    OptionSpec{'o', "offset", true},
    OptionSpec{'r', "read-only", false},
    OptionSpec{'A', "allocation-depth", false},
    OptionSpec{'B', "bitmap", true},
    OptionSpec{'c', "connect", true},
    OptionSpec{'d', "disconnect", false},
    OptionSpec{'L', "list", false},
    OptionSpec{'s', "snapshot", false},
    OptionSpec{'l', "load-snapshot", true},
    OptionSpec{'n', "nocache", false},
    OptionSpec{0, "cache", true},
    OptionSpec{0, "aio", true},
    OptionSpec{0, "discard", true},
    OptionSpec{0, "detect-zeroes", true},
    OptionSpec{'e', "shared", true},
    OptionSpec{'f', "format", true},
    OptionSpec{'t', "persistent", false},
    OptionSpec{'v', "verbose", false},
    OptionSpec{0, "object", true},
    OptionSpec{'x', "export-name", true},
    OptionSpec{'D', "description", true},
    OptionSpec{0, "tls-creds", true},
    OptionSpec{0, "tls-hostname", true},
    OptionSpec{0, "tls-authz", true},
    OptionSpec{0, "image-opts", false},
    OptionSpec{'T', "trace", true},
    OptionSpec{0, "fork", false},
    OptionSpec{0, "pid-file", true},
    OptionSpec{0, "selinux-label", true},
};

Result<> read_block_options(const Arguments& arguments, Settings& settings) {
    const std::size_t caches = arguments.all("cache").size() + (arguments.has("nocache") ? 1 : 0);
    if (caches > 1) {
        return failure("-n and --cache can only be specified once");
    }
    settings.cache = arguments.has("nocache") ? "none" : arguments.last_or("cache", "writeback");
    auto caching = qemu_img::parse_caching("", settings.cache);
    if (!caching.ok()) {
        return failure(fmt::format("Invalid cache mode `{}'", settings.cache));
    }
    settings.mode.caching = *caching;
    if (arguments.all("aio").size() > 1) {
        return failure("--aio can only be specified once");
    }
    const std::string aio = arguments.last_or("aio", "threads");
    if (aio != "threads" && aio != "native" && aio != "io_uring") {
        return failure(fmt::format("Invalid aio mode '{}'", aio));
    }
    if (arguments.all("discard").size() > 1) {
        return failure("--discard can only be specified once");
    }
    const std::string discard = arguments.last_or("discard", "ignore");
    settings.mode.unmap = discard == "unmap" || discard == "on";
    if (!settings.mode.unmap && discard != "ignore" && discard != "off") {
        return failure(fmt::format("Invalid discard mode `{}'", discard));
    }
    const std::string detect = arguments.last_or("detect-zeroes", "off");
    if (detect != "off" && detect != "on" && detect != "unmap") {
        return failure(
            fmt::format("Failed to parse detect_zeroes mode: invalid parameter value: {}", detect));
    }
    if (detect == "unmap" && !settings.mode.unmap) {
        return failure(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to "
            "unmap");
    }
    settings.exported.detect_zeroes = detect == "off"  ? nbd::DetectZeroes::Off
                                      : detect == "on" ? nbd::DetectZeroes::On
                                                       : nbd::DetectZeroes::Unmap;
    return ok();
}

Result<> read_export_options(const Arguments& arguments, Settings& settings) {
    nbd::ExportOptions& exported = settings.exported;
    exported.name = arguments.last_or("export-name", "");
    exported.description = arguments.last_or("description", "");
    if (exported.name.size() > nbd::kMaxString) {
        return failure(fmt::format("export name '{}' too long", exported.name));
    }
    if (exported.description.size() > nbd::kMaxString) {
        return failure(fmt::format("export description '{}' too long", exported.description));
    }
    exported.allocation_depth = arguments.has("allocation-depth");
    exported.bitmaps = arguments.all("bitmap");
    exported.read_only = arguments.has("read-only") || arguments.has("load-snapshot");
    settings.mode.write = !exported.read_only;
    if (const auto text = arguments.last("offset")) {
        auto offset = parse_integer(*text, 0, INT64_MAX);
        if (!offset.ok()) {
            return failure(fmt::format("Invalid offset '{}'", *text));
        }
        settings.offset = *offset;
    }
    if (const auto text = arguments.last("shared")) {
        auto shared = parse_integer(*text, 0, INT32_MAX);
        if (!shared.ok()) {
            return failure(fmt::format("Invalid shared device number '{}'", *text));
        }
        settings.shared = static_cast<unsigned>(*shared);
    }
    exported.multi_conn = settings.shared != 1;
    return ok();
}

Result<> read_place(const Arguments& arguments, Settings& settings) {
    settings.address.path = arguments.last_or("socket", "");
    if (arguments.has("socket") && !settings.address.path.starts_with('/')) {
        return failure("socket path must be absolute");
    }
    const char* count =
        std::getenv("LISTEN_FDS");  // NOLINT(concurrency-mt-unsafe): before any thread
    const char* process = std::getenv("LISTEN_PID");  // NOLINT(concurrency-mt-unsafe): as above
    settings.socket_activation =
        count != nullptr && process != nullptr && process == std::to_string(::getpid());
    if (settings.socket_activation) {
        if (std::string_view(count) != "1") {
            return failure("qemu-nbd does not support socket activation with LISTEN_FDS > 1");
        }
        if (arguments.has("socket") || arguments.has("bind") || arguments.has("port")) {
            return failure("no address may be given when using socket activation");
        }
        return arguments.has("list")
                   ? Result<>(failure("List mode is incompatible with socket activation"))
                   : ok();
    }
    settings.address.host = arguments.last_or("bind", settings.list ? "localhost" : "0.0.0.0");
    settings.address.port = arguments.last_or("port", settings.address.port);
    return ok();
}

Result<> check_list(const Arguments& arguments) {
    if (!arguments.positionals().empty()) {
        return failure("List mode is incompatible with a file name");
    }
    for (const std::string_view each :
         {"export-name", "description", "offset", "connect", "disconnect", "format",
          "load-snapshot", "bitmap", "allocation-depth", "aio", "discard", "cache", "nocache"}) {
        if (arguments.has(each)) {
            return failure("List mode is incompatible with per-device settings");
        }
    }
    return arguments.has("fork") ? Result<>(failure("List mode is incompatible with forking"))
                                 : ok();
}

Result<> read_tls(const Arguments& arguments, Settings& settings) {
    settings.objects = arguments.all("object");
    settings.tls_creds = arguments.last_or("tls-creds", "");
    settings.tls_authz = arguments.last_or("tls-authz", "");
    settings.tls_hostname = arguments.last_or("tls-hostname", "");
    if (settings.tls_creds.empty()) {
        if (!settings.tls_authz.empty()) {
            return failure("--tls-authz is not permitted without --tls-creds");
        }
        return settings.tls_hostname.empty()
                   ? ok()
                   : Result<>(failure("--tls-hostname is not permitted without --tls-creds"));
    }
    if (!settings.tls_authz.empty() && settings.list) {
        return failure("TLS authorization is incompatible with export list");
    }
    return !settings.tls_hostname.empty() && !settings.list
               ? Result<>(failure("TLS hostname is only supported with export list"))
               : ok();
}

}  // namespace

Result<Settings> read_settings(std::span<char*> words) {
    auto parsed = Arguments::parse(words, kOptions);
    if (!parsed.ok()) {
        return failure(fmt::format("{}\nqemu-nbd: {}", parsed.error().text(), kSeeHelp));
    }
    const Arguments& arguments = *parsed;
    Settings settings;
    settings.help = arguments.help();
    settings.version = arguments.has("version");
    settings.list = arguments.has("list");
    settings.fork = arguments.has("fork");
    settings.persistent = arguments.has("persistent");
    settings.verbose = arguments.has("verbose");
    if (settings.help || settings.version) {
        return settings;
    }
    STRATA_TRY_VOID(read_block_options(arguments, settings));
    STRATA_TRY_VOID(read_export_options(arguments, settings));
    if (settings.list) {
        STRATA_TRY_VOID(check_list(arguments));
    } else if (arguments.positionals().size() != 1) {
        return failure(fmt::format("Invalid number of arguments\n{}", kSeeHelp));
    }
    STRATA_TRY_VOID(read_place(arguments, settings));
    STRATA_TRY_VOID(read_tls(arguments, settings));
    if (arguments.has("selinux-label")) {
        return failure("SELinux support not enabled in this binary");
    }
    if (arguments.has("connect") || arguments.has("disconnect")) {
        return failure("Kernel /dev/nbdN support not available");
    }
    settings.overlay = arguments.has("snapshot");
    if (const auto name = arguments.last("load-snapshot")) {
        settings.snapshot = STRATA_TRY(qemu_img::snapshot_name(*name));
    }
    settings.pid_file = arguments.last_or("pid-file", "");
    settings.image.options = arguments.has("image-opts");
    settings.image.format = arguments.last("format");
    if (settings.image.options && settings.image.format) {
        return failure("--image-opts and -f are mutually exclusive");
    }
    settings.image.text = settings.list ? "" : arguments.positionals()[0];
    return settings;
}

}  // namespace strata::qemu_nbd
