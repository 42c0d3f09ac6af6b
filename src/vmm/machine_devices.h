// MachineDevices: the paravirtual devices that a MachineConfig asks for, and their host side.
//
// The PCI functions go to the machine; what they use on the host (open disks, networks) stays here and outlives them.
#pragma once

#include <memory>
#include <vector>

#include "api/machine_config.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "io/event_loop.h"
#include "memory/guest_memory.h"
#include "pci/pci_device.h"
#include "virtio/core/virtio_device.h"

namespace strata::vmm {

class MachineDevices {
  public:
    /// Opens everything. `fds` are the config's descriptors; those used are taken out. `loop` and `memory` outlive the devices.
    static Result<std::unique_ptr<MachineDevices>> create(const api::MachineConfig& config, std::vector<UniqueFd>& fds,
                                                          io::EventLoop& loop, const memory::GuestMemory& memory);

    /// The functions, in the order of their PCI slots: disks, networks, then the rest, so that names in the guest do not move when
    /// something is added at the end. Once.
    [[nodiscard]] std::vector<std::unique_ptr<pci::PciDevice>> take_functions() { return std::move(functions_); }

  private:
    MachineDevices(io::EventLoop& loop, const memory::GuestMemory& memory) : loop_(loop), memory_(memory) {}
    void add(std::unique_ptr<virtio::VirtioDevice> device);
    Result<> add_disk(const api::DiskConfig& config, UniqueFd fd, std::size_t index);
    Result<> add_net(const api::NetConfig& config, std::size_t index);

    io::EventLoop& loop_;
    const memory::GuestMemory& memory_;
    std::vector<std::unique_ptr<pci::PciDevice>> functions_;
};

}  // namespace strata::vmm
