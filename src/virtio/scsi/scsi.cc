// ScsiDevice: making, configuration space, units that come and go, life cycle.
#include "virtio/scsi/scsi.h"

#include <bit>

#include <fmt/format.h>
#include <sys/epoll.h>

#include "scsi/cd_unit.h"

namespace strata::virtio {

using scsi_wire::EventType;
using scsi_wire::Features;

ScsiDevice::ScsiDevice(const ScsiConfig& config, io::EventLoop& loop)
    : QueuedDevice(
          config.label,
          std::vector<std::uint16_t>(kFirstRequestQueue + config.queues, config.queue_size), loop),
      touched_(kFirstRequestQueue + config.queues) {}

Result<std::unique_ptr<ScsiDevice>> ScsiDevice::create(const ScsiConfig& config,
                                                       io::EventLoop& loop) {
    if (config.queues < 1 || config.queues > 64 || !std::has_single_bit(config.queue_size) ||
        config.queue_size > Virtqueue::kMaxSize || config.queue_size < 4) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("{}: 1 to 64 queues of 4 to 1024 entries (a power of two)", config.label)};
    }
    return std::unique_ptr<ScsiDevice>(new ScsiDevice(config, loop));
}

ScsiDevice::~ScsiDevice() {
    const MutexLock lock(mutex_);
    for (auto& [lun, slot] : units_) {
        if (slot.watch) {
            loop().remove(*slot.watch);
        }
        slot.unit.reset();  // waits for what is under way
    }
    for (Waiting& waiting : functions_) {
        std::move(waiting.chain).abandon();
    }
    for (Request& request : requests_) {
        if (request.chain) {
            std::move(*request.chain).abandon();
            request.chain.reset();
        }
    }
}

std::uint64_t ScsiDevice::offered_features() const {
    return kRingFeatures | Features::kHotplug | Features::kChange;
}

void ScsiDevice::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    scsi_wire::Config config{};
    config.num_queues = static_cast<std::uint32_t>(queue_sizes().size() - kFirstRequestQueue);
    config.seg_max = std::uint32_t{queue_sizes()[kFirstRequestQueue]} - 2;
    config.max_sectors = 0xffff;
    config.cmd_per_lun = std::uint32_t{queue_sizes()[kFirstRequestQueue]};
    config.event_info_size = std::uint32_t{sizeof(scsi_wire::Event)};
    config.max_lun = std::uint32_t{kMaxLun};
    {
        const MutexLock lock(mutex_);
        config.sense_size = sense_size_;
        config.cdb_size = cdb_size_;
    }
    copy_config(std::as_bytes(std::span(&config, 1)), offset, data);
}

// The driver may choose two sizes, before it sets DRIVER_OK. VIRTIO 1.2, 5.6.4.
void ScsiDevice::write_config(std::uint64_t offset, std::span<const std::byte> data) {
    Le32 value;
    if (data.size() != sizeof(value)) {
        return;
    }
    std::memcpy(&value, data.data(), sizeof(value));
    const MutexLock lock(mutex_);
    if (serving() || value > kMaxField) {
        return;
    }
    if (offset == offsetof(scsi_wire::Config, sense_size)) {
        sense_size_ = value;
    } else if (offset == offsetof(scsi_wire::Config, cdb_size)) {
        cdb_size_ = value;
    }
}

void ScsiDevice::reset() {
    QueuedDevice::reset();
    const MutexLock lock(mutex_);
    cdb_size_ = kDefaultCdb;
    sense_size_ = kDefaultSense;
    missed_ = false;
    for (auto& [lun, slot] : units_) {
        slot.unit->reset();
    }
}

Result<> ScsiDevice::plug(std::uint16_t lun, std::unique_ptr<scsi::LogicalUnit> unit) {
    if (lun > kMaxLun) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("{}: units have numbers from 0 to {}", label(), kMaxLun)};
    }
    const MutexLock lock(mutex_);
    if (units_.contains(lun)) {
        return Error{ErrorKind::AlreadyExists, fmt::format("{}: unit {} exists", label(), lun)};
    }
    Slot slot{.unit = std::move(unit),
              .watch = std::nullopt,
              .disk = std::make_unique<UnitDisk>(*this, lun),
              .medium = nullptr};
    if (slot.unit->kind() == scsi::DeviceKind::CdRom) {
        slot.medium = std::make_unique<UnitMedium>(*this, lun);
    }
    if (slot.unit->completion_fd() >= 0) {
        slot.watch = STRATA_TRY(watch_unit(lun, slot.unit->completion_fd()));
    }
    units_.emplace(lun, std::move(slot));
    tell_luns();
    report(EventType::kTransportReset, lun, scsi_wire::ResetReason::kRescan, Features::kHotplug);
    return ok();
}

Result<io::EventLoop::WatchId> ScsiDevice::watch_unit(std::uint16_t lun, int fd) {
    return loop().watch(fd, EPOLLIN, [this, lun](std::uint32_t /*events*/) {
        const MutexLock inner(mutex_);
        if (const auto found = units_.find(lun); found != units_.end()) {
            reap_unit(*found->second.unit);
        }
    });
}

block::DiskUser* ScsiDevice::disk_user(std::uint16_t lun) {
    const MutexLock lock(mutex_);
    const auto found = units_.find(lun);
    return found != units_.end() && found->second.unit->image() != nullptr
               ? found->second.disk.get()
               : nullptr;
}

block::DiskImage& ScsiDevice::image_of(std::uint16_t lun) {
    const MutexLock lock(mutex_);
    return *units_.at(lun).unit->image();  // only the event loop's thread changes it
}

Result<> ScsiDevice::exchange_image(std::uint16_t lun, std::unique_ptr<block::DiskImage> image) {
    const MutexLock lock(mutex_);
    Slot& slot = units_.at(lun);
    auto queue = STRATA_TRY(image->open_queue(slot.unit->depth()));
    const auto watch = STRATA_TRY(watch_unit(lun, queue->completion_fd()));
    // Nothing can fail from here on: the old disk may go.
    drain_unit(*slot.unit);
    loop().remove(*slot.watch);
    slot.unit->exchange_image(std::move(image), std::move(queue));
    slot.watch = watch;
    return ok();
}

block::MediumUser* ScsiDevice::medium_user(std::uint16_t lun) {
    const MutexLock lock(mutex_);
    const auto found = units_.find(lun);
    return found != units_.end() ? found->second.medium.get() : nullptr;
}

block::MediumState ScsiDevice::medium_of(std::uint16_t lun) {
    const MutexLock lock(mutex_);
    // SAFETY: there is a `medium` for drives alone.
    const auto& drive = static_cast<const scsi::CdUnit&>(*units_.at(lun).unit);
    return {.medium = drive.image(), .tray_open = drive.tray_open(), .locked = drive.locked()};
}

Result<> ScsiDevice::change_medium(std::uint16_t lun, std::unique_ptr<block::DiskImage> image,
                                   bool force) {
    constexpr std::uint32_t kReason = scsi::sense::kMediumChanged.code;
    const MutexLock lock(mutex_);
    Slot& slot = units_.at(lun);
    // SAFETY: there is a `medium` for drives alone.
    auto& drive = static_cast<scsi::CdUnit&>(*slot.unit);
    STRATA_TRY_VOID(drive.open_tray_for_owner(force));
    std::unique_ptr<block::PatientQueue> queue;
    std::optional<io::EventLoop::WatchId> watch;
    if (image != nullptr) {
        queue = STRATA_TRY(drive.open_disc(*image));
        watch = STRATA_TRY(watch_unit(lun, queue->completion_fd()));
    }
    // Nothing can fail from here on: the old disc may go.
    drive.cancel_all();
    drain_unit(drive);
    if (slot.watch) {
        loop().remove(*slot.watch);
    }
    drive.change_medium(std::move(image), std::move(queue));
    slot.watch = watch;
    report(EventType::kParameterChange, lun, kReason, Features::kChange);
    return ok();
}

Result<> ScsiDevice::unplug(std::uint16_t lun) {
    const MutexLock lock(mutex_);
    const auto found = units_.find(lun);
    if (found == units_.end()) {
        return Error{ErrorKind::NotFound, fmt::format("{}: no unit {}", label(), lun)};
    }
    scsi::LogicalUnit& unit = *found->second.unit;
    unit.cancel_all();
    unit.kick();
    reap_unit(unit);
    while (unit.in_flight() != 0) {
        unit.wait();
        reap_unit(unit);
    }
    if (found->second.watch) {
        loop().remove(*found->second.watch);
    }
    units_.erase(found);
    tell_luns();
    report(EventType::kTransportReset, lun, scsi_wire::ResetReason::kRemoved, Features::kHotplug);
    return ok();
}

void ScsiDevice::tell_luns() {
    std::vector<std::uint16_t> luns;
    for (const auto& [lun, slot] : units_) {
        luns.push_back(lun);
    }
    absent_.set_luns(luns);
    for (auto& [lun, slot] : units_) {
        slot.unit->set_luns(luns);
        slot.unit->attention(scsi::sense::kLunsChanged);
    }
}

void ScsiDevice::capacity_changed(std::uint16_t lun) {
    constexpr std::uint32_t kReason = std::uint32_t{scsi::sense::kCapacityChanged.code} |
                                      (std::uint32_t{scsi::sense::kCapacityChanged.qualifier} << 8);
    const MutexLock lock(mutex_);
    if (const auto found = units_.find(lun); found != units_.end()) {
        found->second.unit->attention(scsi::sense::kCapacityChanged);
        report(EventType::kParameterChange, lun, kReason, Features::kChange);
    }
}

bool ScsiDevice::quiet(unsigned index) const {
    for (const Request& request : requests_) {
        if (request.used && request.queue == index) {
            return false;
        }
    }
    return true;
}

void ScsiDevice::queue_stopping(unsigned index) {
    if (index == kControlQueue) {
        for (Waiting& waiting : functions_) {
            std::move(waiting.chain).abandon();
        }
        functions_.clear();
    }
    for (std::size_t at = 0; at < requests_.size(); ++at) {
        Request& request = requests_[at];
        if (!request.used || request.queue != index) {
            continue;
        }
        if (request.chain) {
            std::move(*request.chain).abandon();
            request.chain.reset();
        }
        if (const auto found = units_.find(request.lun); found != units_.end()) {
            found->second.unit->cancel(at);  // what waits for the host waits no longer
        }
    }
    reap();
}

void ScsiDevice::drain() {
    for (auto& [lun, slot] : units_) {
        drain_unit(*slot.unit);
    }
}

void ScsiDevice::drain_unit(scsi::LogicalUnit& unit) {
    unit.kick();
    reap_unit(unit);
    while (unit.busy()) {
        unit.wait();
        reap_unit(unit);
    }
}

std::optional<block::DiskWait> ScsiDevice::waiting() const {
    const MutexLock lock(mutex_);
    for (const auto& [lun, slot] : units_) {
        if (auto wait = slot.unit->waiting()) {
            return wait;
        }
    }
    return std::nullopt;
}

void ScsiDevice::retry() {
    const MutexLock lock(mutex_);
    for (auto& [lun, slot] : units_) {
        slot.unit->retry();
    }
    kick();
    reap();
}

Result<> ScsiDevice::save(state::StateWriter& writer) const {
    if (const auto wait = waiting()) {
        return Error{
            ErrorKind::WrongState,
            fmt::format("{}: requests wait for room for '{}' on the host", label(), wait->disk)};
    }
    return QueuedDevice::save(writer);
}

void ScsiDevice::save_device(state::StateWriter& writer) const {
    writer.u32(cdb_size_);
    writer.u32(sense_size_);
    writer.boolean(missed_);
    writer.u16(static_cast<std::uint16_t>(units_.size()));
    for (const auto& [lun, slot] : units_) {
        writer.u16(lun);
        slot.unit->save(writer);
    }
}

void ScsiDevice::load_device(state::StateReader& reader) {
    cdb_size_ = reader.u32();
    sense_size_ = reader.u32();
    missed_ = reader.boolean();
    if (cdb_size_ > kMaxField || sense_size_ > kMaxField) {
        reader.reject("a field of requests is too long");
        cdb_size_ = kDefaultCdb;
        sense_size_ = kDefaultSense;
    }
    if (reader.u16() != units_.size()) {
        reader.reject("there are more or fewer units than here");
        return;
    }
    for (auto& [lun, slot] : units_) {
        if (reader.u16() != lun) {
            reader.reject("units have other numbers than here");
            return;
        }
        slot.unit->load(reader);
    }
}

}  // namespace strata::virtio
