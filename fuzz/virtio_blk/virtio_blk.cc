// virtio-blk: registers and queues under hostile input, against a disk in memory.
#include <sys/mman.h>
#include <unistd.h>

#include "../virtio_common/hostile_driver.h"
#include "virtio/blk/blk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata;
    static const int kDisk = [] {
        const int fd = ::memfd_create("disk", MFD_CLOEXEC);
        STRATA_CHECK(fd >= 0 && ::ftruncate(fd, 65536 + 100) == 0, "no memory for the disk");
        return fd;
    }();
    const auto loop = io::EventLoop::create().value();
    fuzz::Input input(data, size);
    const auto bits = input.take<std::uint8_t>();
    block::DiskOptions options;
    options.path = "fuzz";
    options.fd = UniqueFd(::dup(kDisk));
    options.read_only = (bits & 1) != 0;
    options.cache = (bits & 2) != 0 ? block::CacheMode::Writethrough : block::CacheMode::Writeback;
    options.lock = false;
    auto image = block::open_disk(std::move(options)).value();
    auto device = virtio::BlkDevice::create({.queues = 1U + ((bits >> 2) & 1), .queue_size = 16},
                                            std::move(image), *loop);
    fuzz::HostileDriver(std::move(device).value(), *loop).play(input);
    return 0;
}
