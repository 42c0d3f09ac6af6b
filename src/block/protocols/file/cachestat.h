// cachestat: what the host's cache has of a file.
#pragma once

#include <cstdint>
#include <optional>

namespace strata::block {

/// How many pages of [offset, offset + length) of `fd` the host's cache has; starts no transfer,
/// which a read that is not to wait (RWF_NOWAIT) would. Nothing: the kernel does not tell (before
/// Linux 6.5, or the file is not ours).
std::optional<std::uint64_t> cached_pages(int fd, std::uint64_t offset, std::uint64_t length);

}  // namespace strata::block
