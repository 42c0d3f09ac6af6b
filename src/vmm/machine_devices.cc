// MachineDevices: opening, then making.
#include "vmm/machine_devices.h"

#include <algorithm>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/engines/uring/ring.h"
#include "block/graph_image.h"
#include "block/nbd/connector.h"
#include "devices/storage/ahci.h"
#include "devices/storage/ata_disk.h"
#include "devices/storage/atapi_drive.h"
#include "net/user/user_net.h"
#include "scsi/cd_unit.h"
#include "scsi/disk_unit.h"
#include "virtio/net/net.h"
#include "virtio/rng/rng.h"
#include "virtio/scsi/scsi.h"
#include "virtio/transport/pci/virtio_pci.h"

namespace strata::vmm {
namespace {

block::WriteErrorPolicy policy_of(api::WriteErrors wanted) {
    switch (wanted) {
        case api::WriteErrors::Enospc:
            return block::WriteErrorPolicy::Enospc;
        case api::WriteErrors::Report:
            return block::WriteErrorPolicy::Report;
        case api::WriteErrors::Stop:
            return block::WriteErrorPolicy::Stop;
        case api::WriteErrors::Ignore:
            return block::WriteErrorPolicy::Ignore;
    }
    return block::WriteErrorPolicy::Enospc;
}

block::ReadErrorPolicy policy_of(api::ReadErrors wanted) {
    return wanted == api::ReadErrors::Stop ? block::ReadErrorPolicy::Stop
                                           : block::ReadErrorPolicy::Report;
}

constexpr unsigned kRingDepth = 256;

/// One for each queue; one more for a graph, which a disk may come to have while its queues still
/// use theirs, and for a disc that takes another's place.
unsigned rings_for(const std::vector<api::DiskConfig>& disks) {
    unsigned rings = 0;
    for (const api::DiskConfig& disk : disks) {
        rings += (disk.bus == api::DiskBus::Virtio ? disk.queues : 1) + 1;
    }
    return rings;
}

/// What lies in a descriptor's file, which nobody needs any more.
Result<std::string> read_passphrase(const UniqueFd& file, const std::string& disk) {
    constexpr std::size_t kMaxPassphrase = 1U << 20;
    std::string text(kMaxPassphrase + 1, '\0');
    std::size_t size = 0;
    for (;;) {
        const ssize_t got =
            ::pread(file.get(), text.data() + size, text.size() - size, static_cast<off_t>(size));
        if (got < 0) {
            return Error::from_errno(fmt::format("disk '{}': its passphrase", disk));
        }
        size += static_cast<std::size_t>(got);
        if (got == 0 || size > kMaxPassphrase) {
            break;
        }
    }
    text.resize(size);
    if (size == 0 || size > kMaxPassphrase) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("disk '{}': its passphrase is empty, or longer than 1 MiB", disk)};
    }
    return text;
}

}  // namespace

Result<std::unique_ptr<MachineDevices>> MachineDevices::open(const api::MachineConfig& config,
                                                             std::vector<UniqueFd>& fds,
                                                             io::EventLoop& loop) {
    std::unique_ptr<MachineDevices> devices(new MachineDevices(loop));
    block::RingStock::adopt(block::RingStock::create(rings_for(config.disks), kRingDepth));
    for (const api::DiskConfig& disk : config.disks) {
        STRATA_TRY_VOID(devices->open_disk(disk, fds));
    }
    for (const api::NetConfig& net : config.nets) {
        STRATA_TRY_VOID(devices->open_net(net));
    }
    STRATA_TRY_VOID(devices->open_console(config.console, fds));
    return devices;
}

MachineDevices::~MachineDevices() = default;

Result<> MachineDevices::open_disk(const api::DiskConfig& config, std::vector<UniqueFd>& fds) {
    if (config.cdrom && !config.file.present()) {
        images_.push_back(
            {nullptr, config,
             config.serial.empty() ? fmt::format("strata-disk{}", images_.size()) : config.serial});
        return ok();
    }
    if (config.file.fd == api::kNoFile) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("disk '{}': no descriptor was passed", config.file.name)};
    }
    block::DiskOptions options;
    options.path = config.file.name;
    options.fd = std::move(fds[static_cast<std::size_t>(config.file.fd)]);
    options.format = config.format;
    options.read_only = config.read_only;
    options.follow_references = config.follow;
    for (const api::DiskLimit& limit : config.limits) {
        options.limits.emplace_back(limit.name, std::to_string(limit.value));
    }
    options.limit_group = config.limit_group;
    block::GraphExtras extras;
    if (config.passphrase_fd != api::kNoFile) {
        const UniqueFd file = std::move(fds[static_cast<std::size_t>(config.passphrase_fd)]);
        extras.passphrase = STRATA_TRY(read_passphrase(file, config.file.name));
    }
    if (!config.nbd.empty()) {
        channels_.emplace_back(::fcntl(options.fd.get(), F_DUPFD_CLOEXEC, 3));
        extras.nbd_location = config.nbd;
        extras.nbd_connector =
            std::make_shared<block::nbd::ChannelConnector>(std::move(options.fd));
    }
    const bool plain = extras.passphrase.empty() && extras.nbd_location.empty();
    auto image = plain ? block::open_disk(std::move(options))
                       : block::open_graph_image(std::move(options), std::move(extras));
    if (!image) {
        return plain ? std::move(image).error()
                     : std::move(image).error().context(fmt::format("disk '{}'", config.file.name));
    }
    images_.push_back(
        {std::move(*image), config,
         config.serial.empty() ? fmt::format("strata-disk{}", images_.size()) : config.serial});
    return ok();
}

Result<> MachineDevices::open_net(const api::NetConfig& config) {
    net::UserNetConfig user;
    for (const api::PortForward& forward : config.forwards) {
        user.forwards.push_back(
            {forward.protocol == api::Protocol::Udp ? net::Transport::Udp : net::Transport::Tcp,
             forward.host_address, forward.host_port, forward.guest_port});
    }
    networks_.push_back(STRATA_TRY(net::UserNet::create(user, loop_)));
    return ok();
}

Result<> MachineDevices::open_console(const api::ConsoleConfig& config,
                                      std::vector<UniqueFd>& fds) {
    if (config.fd != api::kNoFile) {
        cable_ = STRATA_TRY(
            ConsoleCable::open(std::move(fds[static_cast<std::size_t>(config.fd)]), loop_));
        console_.columns = config.columns;
        console_.rows = config.rows;
    }
    return ok();
}

Result<std::unique_ptr<virtio::VirtioDevice>> MachineDevices::make_disk(std::size_t index) {
    virtio::BlkConfig config;
    OpenDisk& disk = images_[index];
    config.label = fmt::format("virtio-blk{}", index);
    config.serial = disk.serial;
    config.queues = disk.config.queues;
    config.write_errors = policy_of(disk.config.write_errors);
    config.read_errors = policy_of(disk.config.read_errors);
    config.on_wait = on_disk_wait_;
    RunningDisk running = describe(index);
    auto device = STRATA_TRY(virtio::BlkDevice::create(config, std::move(disk.image), loop_));
    running.device = device.get();
    running_disks_[index] = std::move(running);
    waiters_.push_back(device.get());
    return std::unique_ptr<virtio::VirtioDevice>(std::move(device));
}

RunningDisk MachineDevices::describe(std::size_t index) const {
    if (images_[index].image == nullptr) {
        return {};
    }
    const block::DiskImage& image = *images_[index].image;
    return {.name = fmt::format("disk{}", index),
            .file = std::string(image.name()),
            .format = std::string(image.format()),
            .pinned = images_[index].config.pinned};
}

bool MachineDevices::any_on(api::DiskBus bus) const {
    return std::any_of(images_.begin(), images_.end(),
                       [bus](const OpenDisk& disk) { return disk.config.bus == bus; });
}

Result<std::unique_ptr<scsi::LogicalUnit>> MachineDevices::make_unit(OpenDisk& disk) {
    const scsi::UnitConfig config{.serial = disk.serial,
                                  .write_errors = policy_of(disk.config.write_errors),
                                  .read_errors = policy_of(disk.config.read_errors),
                                  .on_wait = on_disk_wait_};
    if (disk.config.cdrom) {
        return std::unique_ptr<scsi::LogicalUnit>(
            STRATA_TRY(scsi::CdUnit::create(config, std::move(disk.image))));
    }
    return std::unique_ptr<scsi::LogicalUnit>(
        STRATA_TRY(scsi::DiskUnit::create(config, std::move(disk.image))));
}

void MachineDevices::add_drive(std::size_t index, block::MediumUser* device) {
    if (device != nullptr) {
        running_drives_.push_back({fmt::format("disk{}", index), device});
    }
}

// All SATA disks and drives on one controller, by port.
Result<std::unique_ptr<pci::PciDevice>> MachineDevices::make_sata(
    const memory::GuestMemory& memory) {
    std::vector<std::unique_ptr<devices::AtaDevice>> ports;
    std::vector<std::size_t> places;  // in images_, by port
    for (std::size_t index = 0; index < images_.size(); ++index) {
        OpenDisk& disk = images_[index];
        if (disk.config.bus != api::DiskBus::Sata) {
            continue;
        }
        places.push_back(index);
        running_disks_[index] = describe(index);
        if (disk.config.cdrom) {
            ports.push_back(std::make_unique<devices::AtapiDrive>(
                STRATA_TRY(scsi::CdUnit::create({.serial = disk.serial}, std::move(disk.image))),
                disk.serial));
        } else {
            ports.push_back(STRATA_TRY(
                devices::AtaDisk::create({.serial = disk.serial,
                                          .write_errors = policy_of(disk.config.write_errors),
                                          .read_errors = policy_of(disk.config.read_errors),
                                          .on_wait = on_disk_wait_},
                                         std::move(disk.image))));
        }
    }
    auto controller = STRATA_TRY(devices::AhciController::create(std::move(ports), memory, loop_));
    for (unsigned port = 0; port < places.size(); ++port) {
        running_disks_[places[port]].device = controller->disk_user(port);
        add_drive(places[port], controller->medium_user(port));
    }
    waiters_.push_back(controller.get());
    return std::unique_ptr<pci::PciDevice>(std::move(controller));
}

// All SCSI disks on one adapter, numbered as they were named.
Result<std::unique_ptr<virtio::VirtioDevice>> MachineDevices::make_scsi() {
    virtio::ScsiConfig config;
    for (const OpenDisk& disk : images_) {
        if (disk.config.bus == api::DiskBus::Scsi) {
            config.queues = std::max(config.queues, disk.config.queues);
        }
    }
    auto device = STRATA_TRY(virtio::ScsiDevice::create(config, loop_));
    std::uint16_t lun = 0;
    for (std::size_t index = 0; index < images_.size(); ++index) {
        OpenDisk& disk = images_[index];
        if (disk.config.bus == api::DiskBus::Scsi) {
            running_disks_[index] = describe(index);
            auto unit = STRATA_TRY(make_unit(disk));
            STRATA_TRY_VOID(device->plug(lun, std::move(unit)));
            running_disks_[index].device = disk.config.cdrom ? nullptr : device->disk_user(lun);
            add_drive(index, device->medium_user(lun));
            ++lun;
        }
    }
    waiters_.push_back(device.get());
    return std::unique_ptr<virtio::VirtioDevice>(std::move(device));
}

std::optional<block::DiskWait> MachineDevices::waiting_disk() const {
    for (const block::DiskWaiter* waiter : waiters_) {
        if (auto wait = waiter->waiting()) {
            return wait;
        }
    }
    return std::nullopt;
}

void MachineDevices::end_connections() {
    for (const UniqueFd& channel : channels_) {
        (void)::shutdown(channel.get(), SHUT_RDWR);  // fails if the other end has gone: as good
    }
}

void MachineDevices::retry_disks() {
    for (block::DiskWaiter* waiter : waiters_) {
        waiter->retry();
    }
}

std::unique_ptr<virtio::VirtioDevice> MachineDevices::make_net(std::size_t index) {
    virtio::NetDeviceConfig config;
    config.label = fmt::format("virtio-net{}", index);
    // Each interface has a network of its own, so an address need only differ inside the machine.
    config.mac.back() = static_cast<std::uint8_t>(config.mac.back() + index);
    return std::make_unique<virtio::NetDevice>(config, std::move(networks_[index]), loop_);
}

std::unique_ptr<virtio::VirtioDevice> MachineDevices::make_console() {
    auto device = std::make_unique<virtio::ConsoleDevice>(console_, *cable_, loop_);
    cable_->connect(device.get());
    return device;
}

Result<std::vector<std::unique_ptr<pci::PciDevice>>> MachineDevices::make_functions(
    const memory::GuestMemory& memory) {
    std::vector<std::unique_ptr<virtio::VirtioDevice>> devices;
    running_disks_.resize(images_.size());
    for (std::size_t i = 0; i < images_.size(); ++i) {
        if (images_[i].config.bus == api::DiskBus::Virtio) {
            devices.push_back(STRATA_TRY(make_disk(i)));
        }
    }
    for (std::size_t i = 0; i < networks_.size(); ++i) {
        devices.push_back(make_net(i));
    }
    devices.push_back(std::make_unique<virtio::RngDevice>(virtio::RngConfig{}, loop_));
    if (cable_ != nullptr) {
        devices.push_back(make_console());
    }
    if (any_on(api::DiskBus::Scsi)) {
        devices.push_back(STRATA_TRY(make_scsi()));
    }
    std::vector<std::unique_ptr<pci::PciDevice>> functions;
    functions.reserve(devices.size() + 1);
    for (auto& device : devices) {
        functions.push_back(
            std::make_unique<virtio::VirtioPciTransport>(std::move(device), memory));
    }
    if (any_on(api::DiskBus::Sata)) {
        functions.push_back(STRATA_TRY(make_sata(memory)));
    }
    std::erase_if(running_disks_,  // discs in drives
                  [](const RunningDisk& disk) { return disk.device == nullptr; });
    return functions;
}

}  // namespace strata::vmm
