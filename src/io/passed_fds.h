// Passed file descriptors: what goes along with a message on a Unix socket (SCM_RIGHTS).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include <sys/socket.h>

#include "base/unique_fd.h"

namespace strata::io {

/// Room for the control part of a message with at most `Count` descriptors.
template <std::size_t Count>
struct FdRoom {
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * Count)> bytes{};
};

/// Lets `message` carry `fds`, which are borrowed; nothing if there are none. `room` holds them and
/// outlives the sending.
void pass_fds(msghdr& message, std::span<std::byte> room, std::span<const int> fds);

/// Owns every descriptor that came with the received `message`.
[[nodiscard]] std::vector<UniqueFd> take_fds(msghdr& message);

}  // namespace strata::io
