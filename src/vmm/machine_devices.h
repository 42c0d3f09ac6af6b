// MachineDevices: the paravirtual devices that a MachineConfig asks for, and their host side.
//
// In two steps, so that the sandbox closes between them: what needs the host is opened first, the
// devices are made later.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "api/machine_config.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "block/disk_image.h"
#include "io/event_loop.h"
#include "memory/guest_memory.h"
#include "net/net_backend.h"
#include "pci/pci_device.h"
#include "scsi/logical_unit.h"
#include "virtio/blk/blk.h"
#include "virtio/core/virtio_device.h"
#include "vmm/console_cable.h"
#include "vmm/disk_desk.h"

namespace strata::vmm {

class MachineDevices {
  public:
    ~MachineDevices();
    MachineDevices(const MachineDevices&) = delete;
    MachineDevices& operator=(const MachineDevices&) = delete;

    /// Opens what lies on the host: disks, networks, the console's stream. Makes no thread. `fds`
    /// are the config's descriptors; those used are taken out.
    static Result<std::unique_ptr<MachineDevices>> open(const api::MachineConfig& config,
                                                        std::vector<UniqueFd>& fds,
                                                        io::EventLoop& loop);

    /// Called when waiting_disk() has begun or ceased to have an answer; before make_functions().
    /// On the event loop's thread, with a lock held.
    void on_disk_wait(std::function<void()> callback) { on_disk_wait_ = std::move(callback); }
    /// What a disk waits for, if one does.
    [[nodiscard]] std::optional<block::DiskWait> waiting_disk() const;
    /// Asks the host again. Not after the machine is gone.
    void retry_disks();
    /// Disks that wait for their server give up: the machine goes.
    void end_connections();

    /// The functions, in the order of their PCI slots: virtio disks, networks, the rest, then
    /// controllers of disks, so that names in the guest do not move when something is added at the
    /// end. Once. `memory` outlives
    /// them; so does this.
    Result<std::vector<std::unique_ptr<pci::PciDevice>>> make_functions(
        const memory::GuestMemory& memory);

    /// The disks that can be changed while they are in use: all but discs in drives; once the
    /// functions are made, and as long as they are.
    [[nodiscard]] const std::vector<RunningDisk>& running_disks() const { return running_disks_; }
    /// The drives for discs, likewise.
    [[nodiscard]] const std::vector<RunningDrive>& running_drives() const {
        return running_drives_;
    }
    /// The console's host side; nullptr without one.
    [[nodiscard]] ConsoleCable* console() { return cable_.get(); }

  private:
    struct OpenDisk {
        std::unique_ptr<block::DiskImage> image;  ///< null: an empty drive
        api::DiskConfig config;
        std::string serial;
    };
    explicit MachineDevices(io::EventLoop& loop) : loop_(loop) {}
    Result<> open_disk(const api::DiskConfig& config, std::vector<UniqueFd>& fds);
    Result<> open_net(const api::NetConfig& config);
    Result<> open_console(const api::ConsoleConfig& config, std::vector<UniqueFd>& fds);
    Result<std::unique_ptr<virtio::VirtioDevice>> make_disk(std::size_t index);
    Result<std::unique_ptr<virtio::VirtioDevice>> make_scsi();
    Result<std::unique_ptr<scsi::LogicalUnit>> make_unit(OpenDisk& disk);
    Result<std::unique_ptr<pci::PciDevice>> make_sata(const memory::GuestMemory& memory);
    [[nodiscard]] RunningDisk describe(std::size_t index) const;
    void add_drive(std::size_t index, block::MediumUser* device);
    [[nodiscard]] bool any_on(api::DiskBus bus) const;
    std::unique_ptr<virtio::VirtioDevice> make_net(std::size_t index);
    std::unique_ptr<virtio::VirtioDevice> make_console();

    io::EventLoop& loop_;
    std::vector<UniqueFd> channels_;  ///< of disks on NBD servers: to who connects
    std::vector<OpenDisk> images_;
    std::vector<block::DiskWaiter*> waiters_;  ///< the machine's: devices with disks
    std::vector<RunningDisk> running_disks_;
    std::vector<RunningDrive> running_drives_;
    std::function<void()> on_disk_wait_;
    std::vector<std::unique_ptr<net::NetBackend>> networks_;
    std::unique_ptr<ConsoleCable> cable_;
    virtio::ConsoleConfig console_;
};

}  // namespace strata::vmm
