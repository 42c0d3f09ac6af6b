// UserNetConfig: the options of the user-mode network.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::net {

enum class Transport : std::uint8_t { Tcp, Udp };

/// Connections to host_address:host_port reach guest_port of the guest.
struct Forward {
    Transport transport = Transport::Tcp;
    std::string host_address = "127.0.0.1";  ///< an IPv4 address; "0.0.0.0" is all of them
    std::uint16_t host_port = 0;
    std::uint16_t guest_port = 0;
    bool operator==(const Forward&) const = default;
};

struct UserNetConfig {
    std::vector<Forward> forwards;
    bool restricted =
        false;  ///< the guest reaches nothing but forwards that come in, DHCP and its gateway
    bool ipv6 = true;
    std::string hostname = "strata";  ///< what DHCP tells the guest
};

/// "tcp:2222:22", "udp:0.0.0.0:5353:53", "tcp:[127.0.0.1]:2222:22".
Result<Forward> parse_forward(std::string_view text);

/// "user[,forward=FORWARD…][,restrict=on|off][,ipv6=on|off][,hostname=NAME]".
Result<UserNetConfig> parse_user_net(std::string_view text);

}  // namespace strata::net
