// Passed file descriptors: into and out of control messages.
#include "io/passed_fds.h"

#include <cstring>

#include "base/check.h"

namespace strata::io {

void pass_fds(msghdr& message, std::span<std::byte> room, std::span<const int> fds) {
    if (fds.empty()) {
        return;
    }
    STRATA_CHECK(CMSG_SPACE(fds.size_bytes()) <= room.size(), "no room for the descriptors");
    message.msg_control = room.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    // SAFETY: the room holds them, checked above.
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
}

std::vector<UniqueFd> take_fds(msghdr& message) {
    std::vector<UniqueFd> fds;
    for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
         control = CMSG_NXTHDR(&message, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            // SAFETY: the kernel filled cmsg_len bytes; i is inside them.
            std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof fd);
            fds.emplace_back(fd);
        }
    }
    return fds;
}

}  // namespace strata::io
