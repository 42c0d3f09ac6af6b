// Address, Location: where an NBD server listens, and which of its exports is meant.
//
// Written as URIs (nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds… with TLS), in
// QEMU's older form (nbd:HOST:PORT[:exportname=NAME], nbd:unix:PATH[:exportname=NAME]) or as
// options by name (server.type, server.path, export …).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "block/image_info.h"

namespace strata::block::nbd {

struct Address {
    std::string path;  ///< of a Unix socket; empty: TCP
    std::string host;
    std::string port = "10809";
    [[nodiscard]] bool is_unix() const { return !path.empty(); }
    /// "unix:PATH" or "HOST:PORT", for messages.
    [[nodiscard]] std::string text() const;
};

struct Location {
    Address address{};
    std::string export_name{};
    bool tls = false;  ///< without credentials of the caller's the system's authorities vouch for
                       ///< the server
    std::string tls_folder{};                        ///< of credentials (tls.h)
    std::map<std::string, std::string> tls_files{};  ///< instead of a folder: what is in it
    std::string tls_user{};                          ///< with keys: whose
    bool tls_psk = false, tls_verify = true;
    std::string tls_hostname{};  ///< instead of the address's
    std::string context{};       ///< metadata that status() is told by, instead of base:allocation
    std::chrono::seconds reconnect_delay{
        0};                                ///< how long requests wait for a server that went away
    std::chrono::seconds open_timeout{0};  ///< how long opening waits for one that is not there yet
};

/// `name` begins as one of the forms above.
[[nodiscard]] bool is_location(std::string_view name);
Result<Location> parse_location(std::string_view name);
/// By options, QEMU's names and tls, tls-folder, tls-psk, tls-user, tls-verify, and files of such a
/// folder for who cannot open it (tls-file.ca-cert.pem …): takes what it knows
/// out of `options` and leaves the rest.
Result<Location> take_location(OptionList& options);
/// As options, to be kept or passed on: take_location()'s other way.
OptionList location_options(const Location& location);
/// As a URI, to be shown: without credentials.
std::string location_uri(const Location& location);
/// As a URI that parse_location() makes the same server, export and credentials of (those of a
/// folder; tls_files have no place there).
std::string credentials_uri(const Location& location);

/// Sockets that are not connected yet: one for each address that the name stands for. Blocks while
/// the name is looked up.
struct Candidate {
    int family = 0;
    std::vector<std::byte> bytes;  ///< a sockaddr
};
Result<std::vector<Candidate>> look_up(const Address& address, bool to_listen);
/// Bound, listening, not blocking. A socket that nobody listens on any more is replaced.
Result<UniqueFd> listen_on(const Address& address, int backlog);
/// The port that a TCP socket is bound to.
Result<std::uint16_t> bound_port(const UniqueFd& socket);

}  // namespace strata::block::nbd
