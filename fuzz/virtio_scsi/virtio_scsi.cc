// virtio-scsi: registers and queues under hostile input, against a disk and a drive in memory.
#include "../virtio_common/hostile_driver.h"
#include "../virtio_common/memory_disk.h"
#include "scsi/cd_unit.h"
#include "scsi/disk_unit.h"
#include "virtio/scsi/scsi.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata;
    const auto loop = io::EventLoop::create().value();
    fuzz::Input input(data, size);
    const auto bits = input.take<std::uint8_t>();
    auto device =
        virtio::ScsiDevice::create({.queues = 1U + ((bits >> 2) & 1), .queue_size = 16}, *loop)
            .value();
    auto disk =
        scsi::DiskUnit::create({.serial = "fuzz"}, fuzz::memory_disk((bits & 1) != 0)).value();
    auto drive = scsi::CdUnit::create({.serial = "fuzz"}, fuzz::memory_disk(true)).value();
    STRATA_CHECK(device->plug(0, std::move(disk)).ok() && device->plug(1, std::move(drive)).ok(),
                 "the units have numbers of their own");
    fuzz::HostileDriver(std::move(device), *loop).play(input);
    return 0;
}
