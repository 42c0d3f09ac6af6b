// virtio-scsi: registers and queues under hostile input, against a disk and a drive in memory.
#include <sys/mman.h>
#include <unistd.h>

#include "../virtio_common/hostile_driver.h"
#include "scsi/cd_unit.h"
#include "scsi/disk_unit.h"
#include "virtio/scsi/scsi.h"

namespace {

using namespace strata;

std::unique_ptr<block::DiskImage> image(bool read_only) {
    static const int kDisk = [] {
        const int fd = ::memfd_create("disk", MFD_CLOEXEC);
        STRATA_CHECK(fd >= 0 && ::ftruncate(fd, 65536 + 100) == 0, "no memory for the disk");
        return fd;
    }();
    block::DiskOptions options;
    options.path = "fuzz";
    options.fd = UniqueFd(::dup(kDisk));
    options.read_only = read_only;
    options.lock = false;
    return block::open_disk(std::move(options)).value();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto loop = io::EventLoop::create().value();
    fuzz::Input input(data, size);
    const auto bits = input.take<std::uint8_t>();
    auto device =
        virtio::ScsiDevice::create({.queues = 1U + ((bits >> 2) & 1), .queue_size = 16}, *loop)
            .value();
    auto disk = scsi::DiskUnit::create({.serial = "fuzz"}, image((bits & 1) != 0)).value();
    auto drive = scsi::CdUnit::create({.serial = "fuzz"}, image(true)).value();
    STRATA_CHECK(device->plug(0, std::move(disk)).ok() && device->plug(1, std::move(drive)).ok(),
                 "the units have numbers of their own");
    fuzz::HostileDriver(std::move(device), *loop).play(input);
    return 0;
}
