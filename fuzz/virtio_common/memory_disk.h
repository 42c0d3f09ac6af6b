// Memory disk: a raw disk without a file, for targets that drive a disk's controller.
#pragma once

#include <memory>

#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "block/disk_image.h"

namespace strata::fuzz {

/// One that all inputs share, a little longer than 64 KiB: no whole number of sectors.
inline std::unique_ptr<block::DiskImage> memory_disk(
    bool read_only, block::CacheMode cache = block::DiskOptions{}.cache) {
    static const int kDisk = [] {
        const int fd = ::memfd_create("disk", MFD_CLOEXEC);
        STRATA_CHECK(fd >= 0 && ::ftruncate(fd, 65536 + 100) == 0, "no memory for the disk");
        return fd;
    }();
    block::DiskOptions options;
    options.path = "fuzz";
    options.fd = UniqueFd(::dup(kDisk));
    options.read_only = read_only;
    options.cache = cache;
    options.lock = false;
    return block::open_disk(std::move(options)).value();
}

}  // namespace strata::fuzz
