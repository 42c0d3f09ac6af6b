// UniqueFd: closing.
#include "base/unique_fd.h"

#include <unistd.h>

namespace strata {

void UniqueFd::reset(int fd) {
    if (fd_ >= 0) {
        // close() frees the descriptor even when it reports an error; there is nobody to tell.
        (void)::close(fd_);
    }
    fd_ = fd;
}

}  // namespace strata
