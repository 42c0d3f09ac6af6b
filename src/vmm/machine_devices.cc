// MachineDevices: making them.
#include "vmm/machine_devices.h"

#include <fmt/format.h>

#include "block/disk_image.h"
#include "net/user/user_net.h"
#include "virtio/blk/blk.h"
#include "virtio/net/net.h"
#include "virtio/rng/rng.h"
#include "virtio/transport/pci/virtio_pci.h"

namespace strata::vmm {

Result<std::unique_ptr<MachineDevices>> MachineDevices::create(const api::MachineConfig& config, std::vector<UniqueFd>& fds,
                                                               io::EventLoop& loop, const memory::GuestMemory& memory) {
    std::unique_ptr<MachineDevices> devices(new MachineDevices(loop, memory));
    for (std::size_t i = 0; i < config.disks.size(); ++i) {
        const std::int64_t place = config.disks[i].file.fd;
        if (place == api::kNoFile) {
            return Error{ErrorKind::InvalidArgument, fmt::format("disk '{}': no descriptor was passed", config.disks[i].file.name)};
        }
        STRATA_TRY_VOID(devices->add_disk(config.disks[i], std::move(fds[static_cast<std::size_t>(place)]), i));
    }
    for (std::size_t i = 0; i < config.nets.size(); ++i) {
        STRATA_TRY_VOID(devices->add_net(config.nets[i], i));
    }
    devices->add(std::make_unique<virtio::RngDevice>(virtio::RngConfig{}, loop));
    return devices;
}

Result<> MachineDevices::add_disk(const api::DiskConfig& config, UniqueFd fd, std::size_t index) {
    block::DiskOptions options;
    options.path = config.file.name;
    options.fd = std::move(fd);
    options.format = config.format;
    options.read_only = config.read_only;
    auto image = STRATA_TRY(block::open_disk(std::move(options)));
    virtio::BlkConfig blk;
    blk.label = fmt::format("virtio-blk{}", index);
    blk.serial = fmt::format("strata-disk{}", index);
    auto device = STRATA_TRY(virtio::BlkDevice::create(blk, std::move(image), loop_));
    add(std::move(device));
    return ok();
}

Result<> MachineDevices::add_net(const api::NetConfig& config, std::size_t index) {
    net::UserNetConfig user;
    for (const api::PortForward& forward : config.forwards) {
        user.forwards.push_back({forward.protocol == api::Protocol::Udp ? net::Transport::Udp : net::Transport::Tcp,
                                 forward.host_address, forward.host_port, forward.guest_port});
    }
    auto backend = STRATA_TRY(net::UserNet::create(user, loop_));
    virtio::NetDeviceConfig device;
    device.label = fmt::format("virtio-net{}", index);
    // Each interface has a network of its own, so an address need only differ inside the machine.
    device.mac.back() = static_cast<std::uint8_t>(device.mac.back() + index);
    add(std::make_unique<virtio::NetDevice>(device, std::move(backend), loop_));
    return ok();
}

void MachineDevices::add(std::unique_ptr<virtio::VirtioDevice> device) {
    functions_.push_back(std::make_unique<virtio::VirtioPciTransport>(std::move(device), memory_));
}

}  // namespace strata::vmm
