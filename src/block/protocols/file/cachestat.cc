// cachestat: the system call, which the host's headers may not know.
#include "block/protocols/file/cachestat.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace strata::block {
namespace {

constexpr long kCachestat = 451;  ///< the same on every architecture

struct Range {
    std::uint64_t offset = 0, length = 0;
};
struct Pages {
    std::uint64_t cached = 0, dirty = 0, in_writeback = 0, evicted = 0, evicted_of_late = 0;
};

}  // namespace

std::optional<std::uint64_t> cached_pages(int fd, std::uint64_t offset, std::uint64_t length) {
    Range range{offset, length};
    Pages pages;
    if (::syscall(kCachestat, fd, &range, &pages, 0) != 0) {
        return std::nullopt;
    }
    return pages.cached;
}

}  // namespace strata::block
