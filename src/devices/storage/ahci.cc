// AhciController: making, life cycle, state.
#include "devices/storage/ahci.h"

#include <fmt/format.h>
#include <sys/epoll.h>

#include "devices/storage/ahci_wire.h"
#include "devices/storage/atapi_drive.h"

namespace strata::devices {

using namespace ahci;  // NOLINT(google-build-using-namespace): its register names

AhciController::AhciController(std::vector<std::unique_ptr<AtaDevice>> devices,
                               const memory::GuestMemory& memory, io::EventLoop& loop)
    : PciDevice({.vendor = 0x8086,  // ICH9 in AHCI mode: what every system has a driver for
                 .device = 0x2922,
                 .class_code = 0x010601,
                 .revision = 2,
                 .subsystem_vendor = 0x1af4,
                 .subsystem = 0x1100,
                 .interrupt_pin = true}),
      memory_(memory),
      loop_(loop) {
    describe().define_bar(kBar, {.kind = pci::BarKind::Memory32, .size = kBarSize});
    seal();
    const MutexLock lock(mutex_);
    for (auto& device : devices) {
        const auto number = static_cast<unsigned>(ports_.size());
        auto disk = std::make_unique<PortDisk>(*this, number);
        Port& port = ports_.emplace_back();
        if (device->packet()) {
            port.medium = std::make_unique<PortMedium>(*this, number);
        }
        port.device = std::move(device);
        port.disk = std::move(disk);
    }
    reset_controller();
}

Result<std::unique_ptr<AhciController>> AhciController::create(
    std::vector<std::unique_ptr<AtaDevice>> devices, const memory::GuestMemory& memory,
    io::EventLoop& loop) {
    if (devices.empty() || devices.size() > kMaxPorts) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("a SATA controller has from 1 to {} devices", kMaxPorts)};
    }
    std::unique_ptr<AhciController> controller(
        new AhciController(std::move(devices), memory, loop));
    STRATA_TRY_VOID(controller->watch_devices());
    return controller;
}

Result<> AhciController::watch_devices() {
    const MutexLock lock(mutex_);
    for (std::size_t index = 0; index < ports_.size(); ++index) {
        const int fd = ports_[index].device->completion_fd();
        if (fd < 0) {
            continue;
        }
        ports_[index].watch = STRATA_TRY(watch_port(index, fd));
    }
    return ok();
}

Result<io::EventLoop::WatchId> AhciController::watch_port(std::size_t index, int fd) {
    return loop_.watch(fd, EPOLLIN, [this, index](std::uint32_t /*events*/) {
        const MutexLock inner(mutex_);
        reap(ports_[index]);
    });
}

block::DiskUser* AhciController::disk_user(unsigned port) {
    const MutexLock lock(mutex_);
    return port < ports_.size() && ports_[port].device->image() != nullptr ? ports_[port].disk.get()
                                                                           : nullptr;
}

block::DiskImage& AhciController::image_of(unsigned port) {
    const MutexLock lock(mutex_);
    return *ports_.at(port).device->image();  // only the event loop's thread changes it
}

Result<> AhciController::exchange_image(unsigned port, std::unique_ptr<block::DiskImage> image) {
    const MutexLock lock(mutex_);
    Port& chosen = ports_.at(port);
    auto queue = STRATA_TRY(image->open_queue(chosen.device->depth()));
    const auto watch = STRATA_TRY(watch_port(port, queue->completion_fd()));
    // Nothing can fail from here on: the old disk may go.
    drain(chosen);
    loop_.remove(*chosen.watch);
    chosen.device->exchange_image(std::move(image), std::move(queue));
    chosen.watch = watch;
    return ok();
}

block::MediumUser* AhciController::medium_user(unsigned port) {
    const MutexLock lock(mutex_);
    return port < ports_.size() ? ports_[port].medium.get() : nullptr;
}

block::MediumState AhciController::medium_of(unsigned port) {
    const MutexLock lock(mutex_);
    // SAFETY: there is a `medium` for drives alone.
    const scsi::CdUnit& drive = static_cast<AtapiDrive&>(*ports_.at(port).device).unit();
    return {.medium = drive.image(), .tray_open = drive.tray_open(), .locked = drive.locked()};
}

Result<> AhciController::change_medium(unsigned port, std::unique_ptr<block::DiskImage> image,
                                       bool force) {
    const MutexLock lock(mutex_);
    Port& chosen = ports_.at(port);
    // SAFETY: there is a `medium` for drives alone.
    scsi::CdUnit& drive = static_cast<AtapiDrive&>(*chosen.device).unit();
    STRATA_TRY_VOID(drive.open_tray_for_owner(force));
    std::unique_ptr<block::PatientQueue> queue;
    std::optional<io::EventLoop::WatchId> watch;
    if (image != nullptr) {
        queue = STRATA_TRY(drive.open_disc(*image));
        watch = STRATA_TRY(watch_port(port, queue->completion_fd()));
    }
    // Nothing can fail from here on: the old disc may go.
    chosen.device->cancel_all();
    drain(chosen);
    if (chosen.watch) {
        loop_.remove(*chosen.watch);
    }
    drive.change_medium(std::move(image), std::move(queue));
    chosen.watch = watch;
    return ok();
}

AhciController::~AhciController() {
    *alive_ = false;
    const MutexLock lock(mutex_);
    for (Port& port : ports_) {
        if (port.watch) {
            loop_.remove(*port.watch);
        }
        port.device.reset();  // waits for what is under way
    }
}

void AhciController::reset() {
    {
        const MutexLock lock(mutex_);
        reset_controller();
    }
    PciDevice::reset();
}

Result<> AhciController::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    for (Port& port : ports_) {
        drain(port);
    }
    return ok();
}

void AhciController::drain(Port& port) {
    port.device->kick();
    reap(port);
    while (port.device->busy()) {
        port.device->wait();
        reap(port);
    }
}

Result<> AhciController::resume() {
    const MutexLock lock(mutex_);
    paused_ = false;
    wake();
    return ok();
}

std::optional<block::DiskWait> AhciController::waiting() const {
    const MutexLock lock(mutex_);
    for (const Port& port : ports_) {
        if (auto wait = port.device->waiting()) {
            return wait;
        }
    }
    return std::nullopt;
}

void AhciController::retry() {
    const MutexLock lock(mutex_);
    for (Port& port : ports_) {
        port.device->retry();
        port.device->kick();
        reap(port);
    }
}

Result<> AhciController::save(state::StateWriter& writer) const {
    if (const auto wait = waiting()) {
        return Error{
            ErrorKind::WrongState,
            fmt::format("{}: requests wait for room for '{}' on the host", label(), wait->disk)};
    }
    save_pci(writer);
    writer.begin(fmt::format("ahci:{}", label()), 1);
    const MutexLock lock(mutex_);
    writer.u32(global_control_);
    writer.u32(interrupts_);
    writer.u8(static_cast<std::uint8_t>(ports_.size()));
    for (const Port& port : ports_) {
        for (const std::uint32_t value :
             {port.list_low, port.list_high, port.fis_low, port.fis_high, port.status, port.enable,
              port.command, port.task_file, port.signature, port.control, port.error, port.active,
              port.issued}) {
            writer.u32(value);
        }
        writer.boolean(port.in_reset);
        writer.boolean(port.reset_pending);
        writer.boolean(port.halted);
        port.device->save(writer);
    }
    writer.end();
    return ok();
}

Result<> AhciController::load(state::StateReader& reader) {
    STRATA_TRY_VOID(load_pci(reader));
    STRATA_TRY_VOID(reader.begin(fmt::format("ahci:{}", label()), 1));
    const MutexLock lock(mutex_);
    global_control_ = reader.u32();
    interrupts_ = reader.u32();
    if (reader.u8() != ports_.size()) {
        reader.reject("there are more or fewer ports than here");
        return reader.end();
    }
    for (Port& port : ports_) {
        for (std::uint32_t* value :
             {&port.list_low, &port.list_high, &port.fis_low, &port.fis_high, &port.status,
              &port.enable, &port.command, &port.task_file, &port.signature, &port.control,
              &port.error, &port.active, &port.issued}) {
            *value = reader.u32();
        }
        port.in_reset = reader.boolean();
        port.reset_pending = reader.boolean();
        port.halted = reader.boolean();
        port.device->load(reader);
    }
    update_interrupt();
    return reader.end();
}

}  // namespace strata::devices
