// MachineDevices: making them.
#include "vmm/machine_devices.h"

#include <fmt/format.h>

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

Result<> MachineDevices::add_disk(const api::DiskConfig& config, UniqueFd /*fd*/, std::size_t /*index*/) {
    return Error{ErrorKind::NotSupported, fmt::format("disk '{}': this build has no disk device", config.file.name)};
}

Result<> MachineDevices::add_net(const api::NetConfig& /*config*/, std::size_t /*index*/) {
    return Error{ErrorKind::NotSupported, "this build has no network device: use --net none"};
}

void MachineDevices::add(std::unique_ptr<virtio::VirtioDevice> device) {
    functions_.push_back(std::make_unique<virtio::VirtioPciTransport>(std::move(device), memory_));
}

}  // namespace strata::vmm
