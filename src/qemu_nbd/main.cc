// qemu-nbd's personality: help, lists, and serving in the foreground or behind the caller's back.
#include "qemu_nbd/main.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/formats/raw/raw.h"
#include "block/nbd/client/handshake.h"
#include "block/nbd/server/server.h"
#include "block/nbd/server/signals.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"
#include "qemu_nbd/settings.h"

namespace strata::qemu_nbd {
namespace {

using qemu_img::failure;
using qemu_img::Session;
namespace nbd = block::nbd;

constexpr std::string_view kVersion = "qemu-nbd 7.2.0 (Strata " STRATA_VERSION ", compatible)\n";
constexpr std::chrono::milliseconds kConnectLimit{30000};
constexpr int kActivatedSocket = 3;

constexpr std::string_view kHelp = R"(Usage: qemu-nbd [OPTIONS] FILE
  or:  qemu-nbd -L [OPTIONS]
Strata's NBD server with qemu-nbd's command line. The same work under Strata's own rules: strata image serve --help

  -h, --help                display this help and exit
  -V, --version             output version information and exit

Connection properties:
  -p, --port=PORT           port to listen on (default `10809')
  -b, --bind=IFACE          interface to bind to (default `0.0.0.0')
  -k, --socket=PATH         path to the unix socket
  -e, --shared=NUM          device can be shared by NUM clients (default '1')
  -t, --persistent          don't exit on the last connection
  -v, --verbose             display extra debugging information
  -x, --export-name=NAME    expose export by name (default is empty string)
  -D, --description=TEXT    export a human-readable description

Exposing part of the image:
  -o, --offset=OFFSET       offset into the image
  -A, --allocation-depth    expose the allocation depth
  -B, --bitmap=NAME         expose a persistent dirty bitmap

General purpose options:
  -L, --list                list exports available from another NBD server
  --object type,id=ID,...   define an object: secret, tls-creds-x509, tls-creds-psk, authz-simple
  --tls-creds=ID            use id of an earlier --object to provide TLS
  --tls-authz=ID            use id of an earlier --object to provide authorization
  --tls-hostname=NAME       with -L: the name that the server's certificate must have
  -T, --trace ...           accepted, without effect
  --fork                    fork off the server process and exit the parent once the server is running
  --pid-file=PATH           store the server's process ID in the given file

Block device options:
  -f, --format=FORMAT       set image format (raw, qcow2, ...)
  -r, --read-only           export read-only
  -s, --snapshot            redirect writes to a temporary file that is gone at the end
  -l, --load-snapshot=NAME  load an internal snapshot inside FILE and export it as a read-only device
  -n, --nocache             disable host cache
      --cache=MODE          'none', 'writeback' (default), 'writethrough', 'directsync' or 'unsafe'
      --aio=MODE            native, io_uring or threads; accepted, the best one is taken
      --discard=MODE        set discard mode (ignore, unmap)
      --detect-zeroes=MODE  set detect-zeroes mode (off, on, unmap)
      --image-opts          treat FILE as a full set of image options
)";

// -L

std::string flag_names(std::uint16_t flags) {
    constexpr std::array<std::string_view, 12> kNames = {
        "",       "readonly", "flush", "fua",    "rotational", "trim",
        "zeroes", "df",       "multi", "resize", "cache",      "fast-zero"};
    std::string text;
    for (std::size_t bit = 1; bit < kNames.size(); ++bit) {
        text += (flags >> bit & 1) != 0 ? fmt::format(" {}", kNames.at(bit)) : "";
    }
    return text;
}

void print_export(const nbd::ExportInfo& info) {
    std::string text = fmt::format(" export: '{}'\n", info.name);
    text += info.description.empty() ? "" : fmt::format("  description: {}\n", info.description);
    if ((info.flags & nbd::kHasFlags) != 0) {
        text += fmt::format("  size:  {}\n  flags: {:#x} ({} )\n", info.size, info.flags,
                            flag_names(info.flags));
    }
    if (info.block_sizes) {
        text += fmt::format("  min block: {}\n  opt block: {}\n  max block: {}\n",
                            info.minimum_block, info.preferred_block, info.maximum_block);
    }
    if (!info.contexts.empty()) {
        text += fmt::format("  available meta contexts: {}\n", info.contexts.size());
        for (const std::string& each : info.contexts) {
            text += fmt::format("   {}\n", each);
        }
    }
    qemu_img::print(text);
}

block::Task<std::vector<nbd::ExportInfo>> list_of(block::Loop& loop,
                                                  const nbd::Location& location) {
    STRATA_CO_TRY(auto tls, nbd::client_credentials(location));
    STRATA_CO_TRY(auto stream,
                  co_await nbd::Stream::connect(loop, location.address, kConnectLimit));
    nbd::TimeLimit limit(loop, kConnectLimit, [&stream] { stream->shut(); });
    auto all = co_await nbd::list_exports(*stream, location, std::move(tls));
    STRATA_CO_TRY_VOID(co_await limit.end());
    co_return all;
}

Result<int> list(Session& session, const Settings& settings) {
    nbd::Location location;
    location.address = settings.address;
    if (location.address.is_unix()) {
        location.address.host.clear();
    }
    location.tls_hostname = settings.tls_hostname;
    if (!settings.tls_creds.empty()) {
        const Session::TlsObject object = STRATA_TRY(session.tls_object(settings.tls_creds));
        if (object.server) {
            return failure(
                "Failed to get TLS creds: Expecting TLS credentials with a client endpoint");
        }
        location.tls = true;
        location.tls_folder = object.folder;
        location.tls_user = object.user;
        location.tls_psk = object.psk;
        location.tls_verify = object.verify;
    }
    const auto all = STRATA_TRY(session.run(list_of(session.loop(), location)));
    qemu_img::print(fmt::format("exports available: {}\n", all.size()));
    for (const nbd::ExportInfo& each : all) {
        print_export(each);
    }
    return 0;
}

// Serving

Result<UniqueFd> listener_of(const Settings& settings) {
    if (settings.socket_activation) {
        return UniqueFd(kActivatedSocket);
    }
    const bool many = settings.persistent || settings.shared == 0;
    return nbd::listen_on(settings.address,
                          many ? SOMAXCONN : static_cast<int>(std::min(settings.shared, 4096U)));
}

/// --snapshot: an overlay that nobody else sees.
Result<block::NodePtr> open_overlay(Session& session, const Settings& settings,
                                    const block::Node& below) {
    const char* folder = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): nobody changes it
    std::string path = fmt::format("{}/vl.XXXXXX", folder != nullptr ? folder : "/var/tmp");
    const UniqueFd made(::mkstemp(path.data()));
    if (!made) {
        return Error::from_errno(fmt::format("Could not create temporary overlay '{}'", path));
    }
    std::error_code code;
    const std::string absolute = std::filesystem::absolute(below.name(), code).string();
    block::CreateRequest request{
        path,
        below.size(),
        {{"backing_file", absolute}, {"backing_fmt", std::string(below.format())}}};
    Result<> created =
        session.run(block::create_image(session.loop(), "qcow2", std::move(request)));
    qemu_img::ImageSpec spec;
    spec.text = path;
    spec.format = "qcow2";
    qemu_img::OpenMode mode = settings.mode;
    mode.write = true;
    auto node = created.ok() ? session.open(spec, mode) : Result<block::NodePtr>(created.error());
    (void)::unlink(path.c_str());  // it lives on while it is open
    return node;
}

Result<block::NodePtr> open_image(Session& session, const Settings& settings) {
    qemu_img::OpenMode mode = settings.mode;
    mode.write = mode.write && !settings.overlay;
    auto opened = session.open(settings.image, mode);
    if (!opened.ok()) {
        return failure(fmt::format("Failed to blk_new_open '{}': {}", settings.image.text,
                                   qemu_img::without_opening(opened.error(), settings.image)));
    }
    block::NodePtr node = std::move(*opened);
    if (settings.overlay) {
        block::NodePtr overlay = STRATA_TRY(open_overlay(session, settings, *node));
        STRATA_TRY_VOID(session.close(node));
        node = std::move(overlay);
    }
    if (settings.snapshot) {
        Result<> loaded = session.run(node->load_snapshot(*settings.snapshot));
        if (!loaded.ok()) {
            return failure(fmt::format("Failed to load snapshot: {}", loaded.error().text()));
        }
    }
    if (settings.offset > node->size()) {
        return failure(fmt::format("Offset '{}' has to be smaller or equal to the image size '{}'",
                                   settings.offset, node->size()));
    }
    if (settings.offset != 0) {
        const std::uint64_t size = node->size() - settings.offset;
        node = std::make_shared<block::raw::RawNode>(std::move(node), settings.offset, size);
    }
    return node;
}

Result<nbd::SessionContext> context_of(Session& session, const Settings& settings) {
    nbd::SessionContext context;
    if (settings.tls_creds.empty()) {
        return context;
    }
    const Session::TlsObject object = STRATA_TRY(session.tls_object(settings.tls_creds));
    if (!object.server) {
        return failure("Failed to get TLS creds: Expecting TLS credentials with a server endpoint");
    }
    auto made = object.psk
                    ? nbd::TlsCredentials::psk(nbd::TlsRole::Server, object.folder, "")
                    : nbd::TlsCredentials::x509(nbd::TlsRole::Server, object.folder, object.verify);
    context.tls = STRATA_TRY(std::move(made));
    if (!settings.tls_authz.empty()) {
        const std::string name = STRATA_TRY(session.authorized_name(settings.tls_authz));
        context.authorized = [name](const std::string& client) { return client == name; };
    }
    return context;
}

Result<> write_pid_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    const std::string text = fmt::format("{}\n", ::getpid());
    if (!fd || ::ftruncate(fd.get(), 0) != 0 ||
        ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
        return Error::from_errno(
            fmt::format("cannot create PID file: Cannot open pid file '{}'", path));
    }
    return ok();
}

/// Tells whoever waits for the server that it runs: from here on errors go nowhere.
using Ready = std::function<void()>;

block::Task<> serve_until_end(block::Loop& loop, UniqueFd signals, UniqueFd listener,
                              nbd::ServerOptions options, nbd::SessionContext context) {
    STRATA_CO_TRY(auto server, nbd::Server::create(loop, std::move(listener), std::move(options),
                                                   std::move(context)));
    STRATA_CO_TRY(auto watcher,
                  nbd::EndSignals::create(loop, std::move(signals), [&server] { server->stop(); }));
    Result<> served = co_await server->run();
    STRATA_CO_TRY_VOID(co_await watcher->finish());
    co_return served;
}

Result<int> serve(Session& session, const Settings& settings, UniqueFd signals,
                  const Ready& ready) {
    nbd::SessionContext context = STRATA_TRY(context_of(session, settings));
    UniqueFd listener = STRATA_TRY(listener_of(settings));
    block::NodePtr node = STRATA_TRY(open_image(session, settings));
    nbd::ExportOptions exported = settings.exported;
    if (!settings.image.format && !settings.image.options && node->format() == "raw") {
        exported.minimum_block = block::kSectorSize;  // guessed: as the peer does then
    }
    context.exports.push_back(
        STRATA_TRY(session.run(nbd::Export::create(node, std::move(exported)))));
    if (!settings.pid_file.empty()) {
        STRATA_TRY_VOID(write_pid_file(settings.pid_file));
    }
    if (::chdir("/") != 0) {
        return Error::from_errno("Could not chdir to root directory");
    }
    nbd::ServerOptions options;
    options.max_clients = settings.shared;
    options.persistent = settings.persistent;
    options.report = [verbose = settings.verbose](const std::string& text) {
        if (verbose) {
            qemu_img::report_error(text);
        }
    };
    ready();
    Result<> served = session.run(serve_until_end(
        session.loop(), std::move(signals), std::move(listener), std::move(options), context));
    context.exports.clear();
    STRATA_TRY_VOID(session.close(node));
    if (settings.address.is_unix()) {
        (void)::unlink(settings.address.path.c_str());  // somebody else may have
    }
    STRATA_TRY_VOID(std::move(served));
    return 0;
}

int end_with(const Error& error) {
    qemu_img::report_error(error.text());
    return EXIT_FAILURE;
}

Result<int> work(const Settings& settings, const Ready& ready) {
    UniqueFd signals = STRATA_TRY(nbd::EndSignals::block());
    auto session = STRATA_TRY(Session::start());
    for (const std::string& each : settings.objects) {
        STRATA_TRY_VOID(session->add_object(each));
    }
    return settings.list ? list(*session, settings)
                         : serve(*session, settings, std::move(signals), ready);
}

/// The parent of --fork: shows what the server complains about until it runs.
int wait_for_server(UniqueFd messages) {
    bool errors = false;
    std::array<char, 1024> bytes{};
    for (;;) {
        const ssize_t got = ::read(messages.get(), bytes.data(), bytes.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return errors || got < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
        }
        errors = true;
        (void)!::write(STDERR_FILENO, bytes.data(),
                       static_cast<std::size_t>(got));  // there is nobody else to tell
    }
}

int run_forked(const Settings& settings) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return end_with(Error::from_errno("Error setting up communication pipe"));
    }
    UniqueFd from_child(ends[0]), to_parent(ends[1]);
    (void)std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child < 0) {
        return end_with(Error::from_errno("Failed to fork"));
    }
    if (child != 0) {
        to_parent.reset();
        return wait_for_server(std::move(from_child));
    }
    from_child.reset();
    const UniqueFd old_errors(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
    if (::setsid() < 0) {
        return end_with(Error::from_errno("Failed to daemonize"));
    }
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    (void)::dup2(null.get(), STDIN_FILENO);  // what is left are the caller's own: harmless
    (void)::dup2(null.get(), STDOUT_FILENO);
    (void)::dup2(to_parent.get(), STDERR_FILENO);
    to_parent.reset();
    const auto status =
        work(settings, [&old_errors] { (void)::dup2(old_errors.get(), STDERR_FILENO); });
    return status.ok() ? *status : end_with(status.error());
}

}  // namespace

int run(std::span<char*> words) {
    (void)std::signal(SIGPIPE, SIG_IGN);
    qemu_img::set_program_name("qemu-nbd");
    auto settings = read_settings(words);
    if (!settings.ok()) {
        return end_with(settings.error());
    }
    if (settings->help || settings->version) {
        qemu_img::print(settings->help ? kHelp : kVersion);
        return EXIT_SUCCESS;
    }
    if (settings->fork) {
        return run_forked(*settings);
    }
    const auto status = work(*settings, [] {});
    (void)std::fflush(stdout);
    return status.ok() ? *status : end_with(status.error());
}

}  // namespace strata::qemu_nbd
