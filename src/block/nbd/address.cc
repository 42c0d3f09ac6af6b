// Address, Location: parsing, looking up, listening.
#include "block/nbd/address.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/text.h"
#include "block/nbd/wire.h"

namespace strata::block::nbd {
namespace {

constexpr std::array<std::string_view, 7> kPrefixes = {
    "nbd://", "nbd+tcp://", "nbd+unix://", "nbds://", "nbds+tcp://", "nbds+unix://", "nbd:"};
constexpr std::uint64_t kMaxSeconds = 30ULL * 24 * 3600;

Error malformed(std::string_view name, std::string_view what) {
    return {ErrorKind::InvalidArgument, fmt::format("'{}': {}", name, what)};
}

Result<std::string> decoded(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            result += text[i];
            continue;
        }
        if (i + 2 >= text.size() || std::isxdigit(static_cast<unsigned char>(text[i + 1])) == 0 ||
            std::isxdigit(static_cast<unsigned char>(text[i + 2])) == 0) {
            return malformed(text, "a % is followed by two hexadecimal digits");
        }
        result += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
        i += 2;
    }
    return result;
}

std::string encoded(std::string_view text) {
    std::string result;
    for (const char c : text) {
        const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                           std::string_view("-._~/").find(c) != std::string_view::npos;
        result += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
    return result;
}

/// "host", "host:port", "[v6]:port".
Result<> take_authority(std::string_view name, std::string_view text, Address& address) {
    const std::size_t bracket = text.starts_with('[') ? text.find(']') : std::string_view::npos;
    const std::size_t colon = text.find(':', bracket == std::string_view::npos ? 0 : bracket);
    address.host =
        bracket != std::string_view::npos ? text.substr(1, bracket - 1) : text.substr(0, colon);
    if (colon != std::string_view::npos && colon + 1 < text.size()) {
        address.port = text.substr(colon + 1);
    }
    return address.host.empty() ? Result<>(malformed(name, "names no host")) : ok();
}

Result<bool> switched_on(std::string_view key, std::string_view value) {
    if (value != "on" && value != "off") {
        return Error{ErrorKind::InvalidArgument, fmt::format("{}={}: use on or off", key, value)};
    }
    return value == "on";
}

Result<> take_query(std::string_view name, std::string_view query, Location& location) {
    for (const std::string_view each : split(query, '&')) {
        const std::size_t equals = each.find('=');
        const std::string_view key = each.substr(0, equals);
        std::string value =
            STRATA_TRY(decoded(equals == std::string_view::npos ? "" : each.substr(equals + 1)));
        if (key == "socket") {
            location.address.path = std::move(value);
        } else if (key == "tls-hostname") {
            location.tls_hostname = std::move(value);
        } else if (key == "tls-certificates") {
            location.tls_folder = std::move(value);
        } else if (key == "tls-user") {
            location.tls_user = std::move(value);
        } else if (key == "tls-psk") {
            location.tls_psk = STRATA_TRY(switched_on(key, value));
        } else if (key == "tls-verify") {
            location.tls_verify = STRATA_TRY(switched_on(key, value));
        } else {
            return malformed(name, fmt::format("unknown parameter '{}'; socket, tls-certificates, "
                                               "tls-hostname, tls-psk, tls-user and tls-verify "
                                               "are known",
                                               key));
        }
    }
    return ok();
}

Result<Location> parse_uri(std::string_view name) {
    Location location;
    const std::size_t mark = name.find("://");
    const std::string_view scheme = name.substr(0, mark);
    std::string_view rest = name.substr(mark + 3);
    location.tls = scheme.starts_with("nbds");
    std::string_view query;
    if (const std::size_t question = rest.find('?'); question != std::string_view::npos) {
        query = rest.substr(question + 1);
        rest = rest.substr(0, question);
    }
    const std::size_t slash = rest.find('/');
    const std::string_view authority = rest.substr(0, slash);
    if (slash != std::string_view::npos) {
        location.export_name = STRATA_TRY(decoded(rest.substr(slash + 1)));
    }
    STRATA_TRY_VOID(take_query(name, query, location));
    location.tls = location.tls || !location.tls_folder.empty();  // as take_location()
    if (scheme.ends_with("+unix")) {
        if (!authority.empty() || !location.address.is_unix()) {
            return malformed(name, "a Unix socket is written nbd+unix:///EXPORT?socket=PATH");
        }
        return location;
    }
    if (location.address.is_unix()) {
        return malformed(name, "a socket's path belongs to nbd+unix://");
    }
    STRATA_TRY_VOID(take_authority(name, authority, location.address));
    return location;
}

Result<Location> parse_old(std::string_view name) {
    Location location;
    std::string_view rest = name.substr(std::string_view("nbd:").size());
    if (const std::size_t at = rest.find(":exportname="); at != std::string_view::npos) {
        location.export_name = rest.substr(at + std::string_view(":exportname=").size());
        rest = rest.substr(0, at);
    }
    if (rest.starts_with("unix:")) {
        location.address.path = rest.substr(5);
        return location.address.is_unix() ? Result<Location>(location)
                                          : malformed(name, "names no socket");
    }
    const std::size_t colon = rest.starts_with('[') ? rest.find("]:") : rest.find(':');
    if (colon == std::string_view::npos) {
        return malformed(name, "names no port: nbd:HOST:PORT");
    }
    STRATA_TRY_VOID(take_authority(name, rest, location.address));
    return location;
}

std::optional<std::string> take(OptionList& options, std::string_view name) {
    std::optional<std::string> value;
    for (auto each = options.begin(); each != options.end();) {
        if (each->first == name) {
            value = std::move(each->second);
            each = options.erase(each);
        } else {
            ++each;
        }
    }
    return value;
}

Result<std::chrono::seconds> take_seconds(OptionList& options, std::string_view name) {
    const auto text = take(options, name);
    const std::uint64_t seconds = text ? STRATA_TRY(parse_integer(*text, 0, kMaxSeconds)) : 0;
    return std::chrono::seconds(seconds);
}

/// A socket file that answers nobody goes; anything else stays.
Result<> make_room(const std::string& path, const sockaddr* address, socklen_t length) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) {
        return ok();
    }
    if (!S_ISSOCK(status.st_mode)) {
        return Error{ErrorKind::AlreadyExists, fmt::format("'{}' exists and is no socket", path),
                     EADDRINUSE};
    }
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(probe.get(), address, length) == 0 || errno == EAGAIN) {
        return Error{ErrorKind::AlreadyExists, fmt::format("another program listens on '{}'", path),
                     EADDRINUSE};
    }
    (void)::unlink(path.c_str());  // bind() tells if it is still there
    return ok();
}

}  // namespace

std::string Address::text() const {
    return is_unix() ? fmt::format("unix:{}", path) : fmt::format("{}:{}", host, port);
}

bool is_location(std::string_view name) {
    return std::ranges::any_of(kPrefixes,
                               [&](std::string_view prefix) { return name.starts_with(prefix); });
}

Result<Location> parse_location(std::string_view name) {
    if (!is_location(name)) {
        return malformed(name, "is no NBD location");
    }
    Location location =
        STRATA_TRY(name.find("://") != std::string_view::npos ? parse_uri(name) : parse_old(name));
    if (location.export_name.size() > kMaxString) {
        return malformed(name.substr(0, 64), "the export's name is too long");
    }
    return location;
}

Result<Location> take_location(OptionList& options) {
    Location location;
    const std::string type = take(options, "server.type").value_or("");
    const auto either = [&](std::string_view nested, std::string_view flat) {
        auto value = take(options, nested);
        auto other = take(options, flat);
        return value ? std::move(*value) : std::move(other).value_or("");
    };
    location.address.path = either("server.path", "path");
    location.address.host = either("server.host", "host");
    if (std::string port = either("server.port", "port"); !port.empty()) {
        location.address.port = std::move(port);
    }
    location.export_name = take(options, "export").value_or("");
    location.tls_folder = take(options, "tls-folder").value_or("");
    location.tls_user = take(options, "tls-user").value_or("");
    location.tls_psk = take(options, "tls-psk").value_or("off") == "on";
    location.tls_verify = take(options, "tls-verify").value_or("on") == "on";
    constexpr std::string_view kFile = "tls-file.";
    std::erase_if(options, [&](auto& option) {
        const bool file = option.first.starts_with(kFile);
        if (file) {
            location.tls_files[option.first.substr(kFile.size())] = std::move(option.second);
        }
        return file;
    });
    location.tls = take(options, "tls").value_or("off") == "on" || !location.tls_folder.empty() ||
                   !location.tls_files.empty();
    location.tls_hostname = take(options, "tls-hostname").value_or("");
    location.context = take(options, "x-dirty-bitmap").value_or("");
    location.reconnect_delay = STRATA_TRY(take_seconds(options, "reconnect-delay"));
    location.open_timeout = STRATA_TRY(take_seconds(options, "open-timeout"));
    if (!type.empty() && type != "unix" && type != "inet") {
        return Error{ErrorKind::NotSupported,
                     fmt::format("server.type={}: use inet or unix", type)};
    }
    if (location.address.is_unix() == !location.address.host.empty() ||
        (type == "unix" && !location.address.is_unix())) {
        return Error{ErrorKind::InvalidArgument,
                     "an NBD server has either a host or the path of a Unix socket"};
    }
    if (location.export_name.size() > kMaxString) {
        return Error{ErrorKind::InvalidArgument, "export name too long"};
    }
    return location;
}

OptionList location_options(const Location& location) {
    OptionList options;
    if (location.address.is_unix()) {
        options = {{"server.type", "unix"}, {"server.path", location.address.path}};
    } else {
        options = {{"server.type", "inet"},
                   {"server.host", location.address.host},
                   {"server.port", location.address.port}};
    }
    const std::array<std::pair<std::string_view, std::string>, 10> rest = {{
        {"export", location.export_name},
        {"tls", location.tls ? "on" : ""},
        {"tls-folder", location.tls_folder},
        {"tls-user", location.tls_user},
        {"tls-psk", location.tls_psk ? "on" : ""},
        {"tls-verify", location.tls_verify ? "" : "off"},
        {"tls-hostname", location.tls_hostname},
        {"x-dirty-bitmap", location.context},
        {"reconnect-delay", location.reconnect_delay.count() != 0
                                ? std::to_string(location.reconnect_delay.count())
                                : ""},
        {"open-timeout",
         location.open_timeout.count() != 0 ? std::to_string(location.open_timeout.count()) : ""},
    }};
    for (const auto& [name, value] : rest) {
        if (!value.empty()) {
            options.emplace_back(name, value);
        }
    }
    for (const auto& [name, content] : location.tls_files) {
        options.emplace_back("tls-file." + name, content);
    }
    return options;
}

std::string location_uri(const Location& location) {
    const std::string_view scheme = location.tls ? "nbds" : "nbd";
    if (location.address.is_unix()) {
        const std::string name =
            location.export_name.empty() ? "" : "/" + encoded(location.export_name);
        return fmt::format("{}+unix://{}?socket={}", scheme, name, encoded(location.address.path));
    }
    const bool v6 = location.address.host.find(':') != std::string::npos;
    const std::string host = v6 ? "[" + location.address.host + "]" : location.address.host;
    return fmt::format("{}://{}:{}{}", scheme, host, location.address.port,
                       location.export_name.empty() ? "" : "/" + encoded(location.export_name));
}

std::string credentials_uri(const Location& location) {
    std::string uri = location_uri(location);
    const std::array<std::pair<std::string_view, std::string_view>, 5> all = {{
        {"tls-certificates", location.tls_folder},
        {"tls-hostname", location.tls_hostname},
        {"tls-psk", location.tls_psk ? "on" : ""},
        {"tls-user", location.tls_user},
        {"tls-verify", location.tls_verify ? "" : "off"},
    }};
    for (const auto& [name, value] : all) {
        if (!value.empty()) {
            const bool first = uri.find('?') == std::string::npos;
            uri += fmt::format("{}{}={}", first ? '?' : '&', name, encoded(value));
        }
    }
    return uri;
}

Result<std::vector<Candidate>> look_up(const Address& address, bool to_listen) {
    if (address.is_unix()) {
        sockaddr_un local{};
        local.sun_family = AF_UNIX;
        if (address.path.size() >= sizeof(local.sun_path)) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("the socket's path '{}' is too long: at most {} bytes",
                                     address.path, sizeof(local.sun_path) - 1),
                         ENAMETOOLONG};
        }
        std::memcpy(local.sun_path, address.path.data(), address.path.size());
        const auto bytes = bytes_of(local);
        return std::vector<Candidate>{{AF_UNIX, {bytes.begin(), bytes.end()}}};
    }
    if (!address.port.empty() &&
        std::ranges::all_of(address.port, [](unsigned char c) { return std::isdigit(c) != 0; })) {
        STRATA_TRY_VOID(
            parse_integer(address.port, 0, UINT16_MAX));  // getaddrinfo() drops what is above
    }
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = to_listen ? AI_PASSIVE : 0;
    addrinfo* found = nullptr;
    const int error = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(),
                                    address.port.c_str(), &hints, &found);
    if (error != 0) {
        return Error{ErrorKind::Unreachable,
                     fmt::format("address resolution failed for {}: {}", address.text(),
                                 ::gai_strerror(error)),
                     EADDRNOTAVAIL};
    }
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> keep(found, &::freeaddrinfo);
    std::vector<Candidate> all;
    for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
        // SAFETY: getaddrinfo() tells the length of the address.
        const auto* first = reinterpret_cast<const std::byte*>(each->ai_addr);
        all.push_back({each->ai_family, {first, first + each->ai_addrlen}});
    }
    return all;
}

Result<UniqueFd> listen_on(const Address& address, int backlog) {
    Error last{ErrorKind::Unreachable, fmt::format("'{}' is no address", address.text())};
    for (const Candidate& each : STRATA_TRY(look_up(address, true))) {
        UniqueFd fd(::socket(each.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        // SAFETY: look_up() made these bytes of a sockaddr.
        const auto* name = reinterpret_cast<const sockaddr*>(each.bytes.data());
        const auto length = static_cast<socklen_t>(each.bytes.size());
        if (address.is_unix()) {
            STRATA_TRY_VOID(make_room(address.path, name, length));
        } else if (const int on = 1; fd) {
            (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on,
                               sizeof(on));  // else bind() says so
        }
        if (fd && ::bind(fd.get(), name, length) == 0 && ::listen(fd.get(), backlog) == 0) {
            return fd;
        }
        last = Error::from_errno(fmt::format("cannot listen on {}", address.text()));
    }
    return last;
}

Result<std::uint16_t> bound_port(const UniqueFd& socket) {
    sockaddr_storage bound{};
    socklen_t length = sizeof(bound);
    // SAFETY: every socket address begins as a sockaddr, and those of both families with their
    // ports in the same place.
    if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
        return Error::from_errno("the socket's address");
    }
    return ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
}

}  // namespace strata::block::nbd
