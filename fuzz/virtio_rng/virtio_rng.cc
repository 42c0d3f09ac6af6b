// virtio-rng: registers and queue under hostile input.
#include "../virtio_common/hostile_driver.h"
#include "virtio/rng/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata;
    const auto loop = io::EventLoop::create().value();
    fuzz::HostileDriver(std::make_unique<virtio::RngDevice>(virtio::RngConfig{}, *loop), *loop)
        .play(fuzz::Input(data, size));
    return 0;
}
