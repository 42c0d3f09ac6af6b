// UserNetConfig: parsing.
#include "net/user/config.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include "base/text.h"

namespace strata::net {
namespace {

Error malformed(std::string_view text, std::string_view why) {
    return {ErrorKind::InvalidArgument,
            fmt::format("port forward '{}': {}; write tcp:2222:22 or udp:[127.0.0.1]:5353:53 (host "
                        "port, then guest port)",
                        text, why)};
}

Result<std::uint16_t> parse_port(std::string_view whole, std::string_view text) {
    const auto port = parse_integer(text, 1, 65535);
    if (!port.ok()) {
        return malformed(whole, fmt::format("'{}' is not a port", text));
    }
    return static_cast<std::uint16_t>(*port);
}

Result<bool> parse_switch(std::string_view key, std::string_view value) {
    if (value == "on" || value == "off") {
        return value == "on";
    }
    return Error{ErrorKind::InvalidArgument,
                 fmt::format("network option {}={}: write on or off", key, value)};
}

}  // namespace

Result<Forward> parse_forward(std::string_view text) {
    const auto parts = split(text, ':');
    if (parts.size() != 3 && parts.size() != 4) {
        return malformed(text, text.find('[') != text.npos && parts.size() > 4
                                   ? "only IPv4 addresses can be listened on"
                                   : "it has the wrong number of parts");
    }
    Forward forward;
    if (parts[0] != "tcp" && parts[0] != "udp") {
        return malformed(text, fmt::format("'{}' is neither tcp nor udp", parts[0]));
    }
    forward.transport = parts[0] == "tcp" ? Transport::Tcp : Transport::Udp;
    if (parts.size() == 4 && !parts[1].empty()) {
        std::string_view address = parts[1];
        if (address.size() > 2 && address.front() == '[' && address.back() == ']') {
            address = address.substr(1, address.size() - 2);
        }
        forward.host_address = address;
        in_addr parsed{};
        if (::inet_pton(AF_INET, forward.host_address.c_str(), &parsed) != 1) {
            return malformed(text, fmt::format("'{}' is not an IPv4 address", address));
        }
    }
    forward.host_port = STRATA_TRY(parse_port(text, parts[parts.size() - 2]));
    forward.guest_port = STRATA_TRY(parse_port(text, parts.back()));
    return forward;
}

Result<UserNetConfig> parse_user_net(std::string_view text) {
    const auto parts = split(text, ',');
    if (parts.empty() || parts[0] != "user") {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("network '{}' does not begin with 'user'", text)};
    }
    UserNetConfig config;
    for (std::size_t at = 1; at < parts.size(); ++at) {
        const std::size_t equals = std::min(parts[at].find('='), parts[at].size());
        const std::string_view key = parts[at].substr(0, equals);
        const std::string_view value = parts[at].substr(std::min(equals + 1, parts[at].size()));
        if (key == "forward") {
            config.forwards.push_back(STRATA_TRY(parse_forward(value)));
        } else if (key == "restrict") {
            config.restricted = STRATA_TRY(parse_switch(key, value));
        } else if (key == "ipv6") {
            config.ipv6 = STRATA_TRY(parse_switch(key, value));
        } else if (key == "hostname" && !value.empty()) {
            config.hostname = value;
        } else {
            return Error{
                ErrorKind::InvalidArgument,
                fmt::format(
                    "unknown network option '{}'; known are forward, restrict, ipv6 and hostname",
                    parts[at])};
        }
    }
    return config;
}

}  // namespace strata::net
