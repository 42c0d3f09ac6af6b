// strata image serve: disk images as NBD exports.
#include <array>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "block/nbd/server/server.h"
#include "block/nbd/server/signals.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

namespace nbd = block::nbd;

constexpr unsigned kMaxClients = 1000;
constexpr int kBacklog = 128;

constexpr std::array kImages = {Positional{"FILE",
                                           "An image; several are exports of their files' names.",
                                           true, Completes::Files, "", true}};

constexpr std::array kOptions = {
    kFormatOption,
    Option{"--socket", 'k', "PATH", "Listen on a Unix socket.", Completes::Files},
    Option{"--bind", 'b', "ADDRESS", "Listen on this address (default 127.0.0.1).",
           Completes::Nothing},
    Option{"--port", 'p', "PORT",
           "Listen on this TCP port (default 10809; 0: any that is free, told when it is open).",
           Completes::Nothing},
    Option{"--export", 'x', "NAME",
           "The export's name (default: none for one image, the files' names for several).",
           Completes::Nothing},
    Option{"--description", 'D', "TEXT", "What clients read about the exports.",
           Completes::Nothing},
    Option{"--read-only", 'r', "", "Clients cannot write."},
    Option{"--bitmap", 'B', "NAME", "Offer a dirty bitmap of the image.", Completes::Nothing, true},
    Option{"--clients", 'e', "COUNT",
           "At most so many clients at a time; others wait (default 16).", Completes::Nothing},
    Option{"--persistent", 't', "", "Go on when the last client has gone."},
    Option{"--cache", 0, "none|writeback|writethrough|unsafe",
           "How the host's cache is used (default writeback).", Completes::Choices},
    Option{"--tls", 0, "FOLDER",
           "Only with TLS, by the certificates in this folder: ca-cert.pem, server-cert.pem, "
           "server-key.pem.",
           Completes::Files},
    Option{"--tls-any-client", 0, "", "With --tls: clients need no certificate."},
    Option{"--tls-psk", 0, "FOLDER",
           "Only with TLS, by the keys in this folder's keys.psk: a line USER:HEXKEY for each.",
           Completes::Files},
    kPassphraseOption,
    kBackingPassphraseOption,
    kFollowOption,
};

Result<nbd::Address> address_of(const Arguments& arguments) {
    nbd::Address address;
    address.path = arguments.value("--socket").value_or("");
    address.host = arguments.value("--bind").value_or("127.0.0.1");
    if (const auto port = arguments.value("--port")) {
        address.port = std::to_string(STRATA_TRY(parse_integer(*port, 0, UINT16_MAX)));
    }
    if (address.is_unix() && (arguments.flag("--bind") || arguments.flag("--port"))) {
        return Error{ErrorKind::InvalidArgument,
                     "--socket is one place to listen, --bind and --port another: choose one"};
    }
    return address;
}

Result<std::shared_ptr<const nbd::TlsCredentials>> credentials_of(const Arguments& arguments) {
    const auto certificates = arguments.value("--tls");
    const auto keys = arguments.value("--tls-psk");
    if (certificates && keys) {
        return Error{ErrorKind::InvalidArgument, "--tls and --tls-psk exclude each other"};
    }
    if (certificates) {
        return nbd::TlsCredentials::x509(nbd::TlsRole::Server, std::string(*certificates),
                                         !arguments.flag("--tls-any-client"));
    }
    return keys ? nbd::TlsCredentials::psk(nbd::TlsRole::Server, std::string(*keys), "")
                : std::shared_ptr<const nbd::TlsCredentials>();
}

block::CacheMode cache_of(const Arguments& arguments) {
    const std::string_view name = arguments.value("--cache").value_or("writeback");
    return name == "none"           ? block::CacheMode::None
           : name == "writethrough" ? block::CacheMode::Writethrough
           : name == "unsafe"       ? block::CacheMode::Unsafe
                                    : block::CacheMode::Writeback;
}

struct Serving {
    std::vector<block::NodePtr> nodes;
    nbd::SessionContext context;
};

Result<> add_image(ImageTool& tool, const Arguments& arguments, std::string_view path, bool only,
                   Serving& serving) {
    const bool read_only = arguments.flag("--read-only");
    serving.nodes.push_back(STRATA_TRY(
        tool.open(arguments, path, {.write = !read_only, .cache = cache_of(arguments)})));
    nbd::ExportOptions options;
    options.name = only ? arguments.value("--export").value_or("")
                        : std::filesystem::path(path).filename().string();
    options.description = arguments.value("--description").value_or("");
    options.read_only = read_only;
    options.allocation_depth = true;
    for (const std::string_view each : arguments.values("--bitmap")) {
        options.bitmaps.emplace_back(each);
    }
    for (const auto& other : serving.context.exports) {
        if (other->options().name == options.name) {
            return Error{
                ErrorKind::AlreadyExists,
                fmt::format(
                    "two exports of the name '{}': serve the images under links of other names",
                    options.name)};
        }
    }
    serving.context.exports.push_back(
        STRATA_TRY(tool.run(nbd::Export::create(serving.nodes.back(), std::move(options)))));
    return ok();
}

void announce(const Arguments& arguments, const nbd::Address& address, const Serving& serving) {
    api::Json all = api::Json::array();
    for (const auto& each : serving.context.exports) {
        const nbd::Location location{.address = address,
                                     .export_name = each->options().name,
                                     .tls = serving.context.tls != nullptr};
        all.push_back({{"export", each->options().name},
                       {"uri", nbd::location_uri(location)},
                       {"size", each->size()}});
        notice(fmt::format("serving '{}' ({}) at {}", each->node().name(),
                           format_size(each->size()), nbd::location_uri(location)));
    }
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(all));
    }
}

block::Task<> serve(block::Loop& loop, UniqueFd signals, UniqueFd listener,
                    nbd::ServerOptions options, nbd::SessionContext context) {
    STRATA_CO_TRY(auto server, nbd::Server::create(loop, std::move(listener), std::move(options),
                                                   std::move(context)));
    STRATA_CO_TRY(auto watcher,
                  nbd::EndSignals::create(loop, std::move(signals), [&server] { server->stop(); }));
    Result<> served = co_await server->run();
    STRATA_CO_TRY_VOID(co_await watcher->finish());
    co_return served;
}

Result<int> run_serve(const Arguments& arguments) {
    UniqueFd signals = STRATA_TRY(nbd::EndSignals::block());
    ImageTool tool = STRATA_TRY(ImageTool::start());
    nbd::Address address = STRATA_TRY(address_of(arguments));
    nbd::ServerOptions options;
    options.persistent = arguments.flag("--persistent");
    options.max_clients = static_cast<unsigned>(
        STRATA_TRY(parse_integer(arguments.value("--clients").value_or("16"), 1, kMaxClients)));
    options.report = [](const std::string& text) { notice(text); };
    Serving serving;
    serving.context.tls = STRATA_TRY(credentials_of(arguments));
    const bool only = !arguments.positional(1).has_value();
    if (!only && arguments.flag("--export")) {
        return Error{ErrorKind::InvalidArgument,
                     "--export names one image; several are known by their files' names"};
    }
    for (std::size_t i = 0; arguments.positional(i).has_value(); ++i) {
        STRATA_TRY_VOID(add_image(tool, arguments, *arguments.positional(i), only, serving));
    }
    UniqueFd listener = STRATA_TRY(nbd::listen_on(address, kBacklog));
    if (!address.is_unix()) {
        address.port = std::to_string(STRATA_TRY(nbd::bound_port(listener)));
    }
    announce(arguments, address, serving);
    Result<> served = tool.run(serve(tool.loop(), std::move(signals), std::move(listener),
                                     std::move(options), std::move(serving.context)));
    std::error_code ignored;
    if (address.is_unix()) {
        std::filesystem::remove(address.path, ignored);  // somebody else may have
    }
    for (block::NodePtr& each : serving.nodes) {
        STRATA_TRY_VOID(tool.close(each));
    }
    STRATA_TRY_VOID(std::move(served));
    return 0;
}

}  // namespace

const Command kImageServeCommand = {
    .name = "image serve",
    .summary = "Offer disk images to NBD clients",
    .description =
        "Ends when the last client has gone (unless --persistent), or at SIGTERM or SIGINT: "
        "requests under way are carried out, the images closed.\n"
        "Without TLS whoever reaches the socket reads and writes the disk: a Unix socket is "
        "guarded by its folder's permissions.",
    .positionals = kImages,
    .options = kOptions,
    .examples =
        "  strata image serve -f qcow2 -k /run/disk.sock disk.qcow2\n  strata image serve -f raw "
        "--tls /etc/pki/strata -b 0.0.0.0 -t disk.raw",
    .run = run_serve,
};

}  // namespace strata::cli
