// MmapRegion: mapping and unmapping.
#include "base/mmap_region.h"

#include <utility>

#include <fmt/format.h>

namespace strata {

MmapRegion::MmapRegion(MmapRegion&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MmapRegion& MmapRegion::operator=(MmapRegion&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

MmapRegion::~MmapRegion() {
    if (data_ != nullptr) {
        // Unmapping a range that we mapped cannot fail in a way that could be handled.
        (void)::munmap(data_, size_);
    }
}

Result<MmapRegion> MmapRegion::map(std::size_t size, int protection, int flags, int fd,
                                   std::uint64_t offset) {
    if (fd < 0) {
        flags |= MAP_ANONYMOUS;
    }
    void* data = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
    // SAFETY: MAP_FAILED is a C macro with an old-style cast; compared as the integer it stands
    // for.
    if (reinterpret_cast<std::intptr_t>(data) == -1) {
        return Error::from_errno(fmt::format("cannot map {} bytes of memory", size));
    }
    MmapRegion region;
    region.data_ = static_cast<std::byte*>(data);
    region.size_ = size;
    return region;
}

}  // namespace strata
