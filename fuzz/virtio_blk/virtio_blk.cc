// virtio-blk: registers and queues under hostile input, against a disk in memory.
#include "../virtio_common/hostile_driver.h"
#include "../virtio_common/memory_disk.h"
#include "virtio/blk/blk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata;
    const auto loop = io::EventLoop::create().value();
    fuzz::Input input(data, size);
    const auto bits = input.take<std::uint8_t>();
    auto image = fuzz::memory_disk((bits & 1) != 0, (bits & 2) != 0 ? block::CacheMode::Writethrough
                                                                    : block::CacheMode::Writeback);
    auto device = virtio::BlkDevice::create({.queues = 1U + ((bits >> 2) & 1), .queue_size = 16},
                                            std::move(image), *loop);
    fuzz::HostileDriver(std::move(device).value(), *loop).play(input);
    return 0;
}
