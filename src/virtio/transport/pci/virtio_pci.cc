// VirtioPciTransport: BAR dispatch, status and queue registers, interrupts.
#include "virtio/transport/pci/virtio_pci.h"

#include <algorithm>
#include <bit>

#include "base/log.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kRegionSize = 0x1000;
constexpr std::uint8_t kIsrQueue = 1;
constexpr std::uint8_t kIsrConfig = 2;
constexpr std::uint32_t kNotifyMultiplier = 4;

pci::Identity identity_of(DeviceType type) {
    std::uint32_t class_code = 0xff0000;
    switch (type) {
        case DeviceType::Net:
            class_code = 0x020000;
            break;
        case DeviceType::Block:
            class_code = 0x010000;
            break;
        case DeviceType::Console:
            class_code = 0x078000;
            break;
        case DeviceType::Scsi:
            class_code = 0x010000;
            break;
        case DeviceType::Entropy:
            class_code = 0xff0000;
            break;
    }
    return {.vendor = 0x1af4,
            .device = static_cast<std::uint16_t>(0x1040 + static_cast<std::uint16_t>(type)),
            .class_code = class_code,
            .revision = 1,
            .subsystem_vendor = 0x1af4,
            .subsystem = 0x1100,
            .interrupt_pin = true};
}

std::uint64_t little_endian(std::span<const std::byte> data) {
    std::uint64_t value = 0;
    std::memcpy(&value, data.data(), std::min(data.size(), sizeof(value)));
    return value;
}

}  // namespace

VirtioPciTransport::VirtioPciTransport(std::unique_ptr<VirtioDevice> device,
                                       const memory::GuestMemory& memory, RingFormats formats)
    : PciDevice(identity_of(device->type())),
      device_(std::move(device)),
      memory_(memory),
      formats_(formats),
      vectors_(device_->queue_sizes().size()) {
    STRATA_CHECK(device_->queue_sizes().size() <= kMaxQueues, "too many queues");
    for (const std::uint16_t size : device_->queue_sizes()) {
        Queue queue;
        queue.max_size = size;
        queues_.push_back(queue);
    }
    {
        const MutexLock lock(registers_mutex_);
        finish_reset();
    }
    describe().define_bar(0, {.kind = pci::BarKind::Memory64, .size = kBarSize});
    describe_capabilities();
    seal();
    device_->attach(*this);
}

VirtioPciTransport::~VirtioPciTransport() = default;

void VirtioPciTransport::describe_capabilities() {
    constexpr std::uint8_t kVendorSpecific = 0x09;
    const auto region = [](std::uint8_t type, std::uint64_t offset, std::uint64_t size,
                           std::size_t extra) {
        return PciCapability{static_cast<std::uint8_t>(2 + sizeof(PciCapability) + extra),
                             type,
                             0,
                             0,
                             {},
                             static_cast<std::uint32_t>(offset),
                             static_cast<std::uint32_t>(size)};
    };
    const auto add = [this](const auto& body) {
        return describe().add_capability(kVendorSpecific, std::as_bytes(std::span(&body, 1)));
    };
    struct Extended {
        PciCapability capability;
        Le32 extra;  // notify: the multiplier; pci-cfg: the data window
    };
    static_assert(sizeof(Extended) == 18);
    add(region(PciCapabilityType::kCommon, 0, sizeof(PciCommonConfig), 0));
    add(region(PciCapabilityType::kIsr, kIsrOffset, 1, 0));
    add(region(PciCapabilityType::kDevice, kDeviceOffset, kRegionSize, 0));
    add(Extended{region(PciCapabilityType::kNotify, kNotifyOffset,
                        device_->queue_sizes().size() * kNotifyMultiplier, 4),
                 kNotifyMultiplier});
    window_ = add(Extended{region(PciCapabilityType::kPciConfig, 0, 0, 4), 0U});
    describe().make_writable<std::uint8_t>(window_ + 4, 0xff);
    describe().make_writable<std::uint32_t>(window_ + 8, 0xffffffff);
    describe().make_writable<std::uint32_t>(window_ + 12, 0xffffffff);
    describe().make_writable<std::uint32_t>(window_ + 16, 0xffffffff);
    add_msix(static_cast<unsigned>(device_->queue_sizes().size()) + 1, 0, kTableOffset,
             kPendingOffset);
}

std::uint64_t VirtioPciTransport::offered() const {
    return device_->offered_features() | Feature::kVersion1 |
           (formats_ == RingFormats::SplitAndPacked ? Feature::kRingPacked : 0);
}

// --- The pci-cfg window. VIRTIO 1.2, 4.1.4.9 ---

VirtioPciTransport::WindowPlace VirtioPciTransport::window_place() {
    std::array<std::byte, 16> raw{};
    PciDevice::config_read(window_, raw);
    const auto bar = std::to_integer<unsigned>(raw[4]);
    const auto offset = static_cast<std::uint32_t>(little_endian(std::span(raw).subspan(8, 4)));
    const auto length = static_cast<std::uint32_t>(little_endian(std::span(raw).subspan(12, 4)));
    const bool sane = bar == 0 && (length == 1 || length == 2 || length == 4) &&
                      offset % length == 0 && offset < kBarSize;
    return sane ? WindowPlace{offset, length} : WindowPlace{};
}

void VirtioPciTransport::config_read(unsigned offset, std::span<std::byte> data) {
    const unsigned window = window_ + 16;
    if (offset < window + 4 && offset + data.size() > window) {
        std::array<std::byte, 4> value{};
        const auto place = window_place();
        if (place.length != 0) {
            value.fill(std::byte{0xff});
            bar_read(0, place.offset, std::span(value).first(place.length));
            PciDevice::config_write(window, value);
        }
    }
    PciDevice::config_read(offset, data);
}

void VirtioPciTransport::config_write(unsigned offset, std::span<const std::byte> data) {
    PciDevice::config_write(offset, data);
    const unsigned window = window_ + 16;
    if (offset < window + 4 && offset + data.size() > window) {
        const auto place = window_place();
        if (place.length != 0) {
            std::array<std::byte, 4> value{};
            PciDevice::config_read(window, value);
            bar_write(0, place.offset, std::span(value).first(place.length));
        }
    }
}

// --- BAR 0 ---

void VirtioPciTransport::bar_read(unsigned /*bar*/, std::uint64_t offset,
                                  std::span<std::byte> data) {
    if (offset < sizeof(PciCommonConfig)) {
        const MutexLock lock(registers_mutex_);
        const PciCommonConfig registers = common();
        const auto bytes = std::as_bytes(std::span(&registers, 1));
        for (std::size_t at = 0; at < data.size() && offset + at < bytes.size(); ++at) {
            data[at] = bytes[offset + at];
        }
    } else if (offset == kIsrOffset) {
        const MutexLock lock(isr_mutex_);
        std::fill(data.begin(), data.end(), std::byte{0});
        data[0] = static_cast<std::byte>(isr_);
        isr_ = 0;
        set_intx(false);
    } else if (offset >= kDeviceOffset && offset < kDeviceOffset + kRegionSize) {
        device_->read_config(offset - kDeviceOffset, data);
    } else {
        (void)msix()->read(offset, data);  // elsewhere: all ones stay
    }
}

void VirtioPciTransport::bar_write(unsigned /*bar*/, std::uint64_t offset,
                                   std::span<const std::byte> data) {
    if (offset >= kNotifyOffset && offset < kNotifyOffset + kRegionSize) {
        device_->notify(static_cast<unsigned>((offset - kNotifyOffset) / kNotifyMultiplier));
    } else if (offset < sizeof(PciCommonConfig)) {
        write_common(offset, data);
    } else if (offset >= kDeviceOffset && offset < kDeviceOffset + kRegionSize) {
        device_->write_config(offset - kDeviceOffset, data);
    } else {
        (void)msix()->write(offset, data);  // elsewhere: dropped
    }
}

PciCommonConfig VirtioPciTransport::common() {
    if (resetting_ && device_->idle()) {
        finish_reset();
    }
    PciCommonConfig out{};
    out.device_feature_select = device_feature_select_;
    out.device_feature =
        device_feature_select_ < 2
            ? static_cast<std::uint32_t>(offered() >> (32 * device_feature_select_))
            : 0;
    out.driver_feature_select = driver_feature_select_;
    out.driver_feature =
        driver_feature_select_ < 2
            ? static_cast<std::uint32_t>(driver_features_ >> (32 * driver_feature_select_))
            : 0;
    out.config_msix_vector = config_vector_.load(std::memory_order_relaxed);
    out.num_queues = static_cast<std::uint16_t>(queues_.size());
    out.device_status = status_;
    if (needs_reset_.load(std::memory_order_relaxed)) {
        out.device_status |= DeviceStatus::kNeedsReset;
    }
    out.config_generation = device_->config_generation();
    out.queue_select = queue_select_;
    if (queue_select_ < queues_.size()) {
        Queue& queue = queues_[queue_select_];
        if (queue.resetting && device_->queue_idle(queue_select_)) {
            queue.resetting = false;
        }
        out.queue_size = queue.setup.size;
        out.queue_msix_vector = vectors_[queue_select_].load(std::memory_order_relaxed);
        out.queue_enable = queue.enabled ? 1 : 0;
        out.queue_notify_off = queue_select_;
        out.queue_desc = queue.setup.descriptors.value();
        out.queue_driver = queue.setup.driver.value();
        out.queue_device = queue.setup.device.value();
        out.queue_notify_data = queue_select_;
        out.queue_reset = queue.resetting ? 1 : 0;
    }
    return out;
}

void VirtioPciTransport::write_common(std::uint64_t offset, std::span<const std::byte> data) {
    const MutexLock lock(registers_mutex_);
    if (resetting_) {
        if (!device_->idle()) {
            return;  // the driver must wait for status to read 0
        }
        finish_reset();
    }
    const std::uint64_t value = little_endian(data);
    if (offset < offsetof(PciCommonConfig, queue_size)) {
        write_global(offset, value);
    } else if (queue_select_ < queues_.size()) {
        write_queue(offset, data.size(), value);
    }
}

void VirtioPciTransport::write_global(std::uint64_t offset, std::uint64_t value) {
    switch (offset) {
        case offsetof(PciCommonConfig, device_feature_select):
            device_feature_select_ = static_cast<std::uint32_t>(value);
            break;
        case offsetof(PciCommonConfig, driver_feature_select):
            driver_feature_select_ = static_cast<std::uint32_t>(value);
            break;
        case offsetof(PciCommonConfig, driver_feature):
            if (driver_feature_select_ < 2 && (status_ & DeviceStatus::kFeaturesOk) == 0) {
                const unsigned shift = 32 * driver_feature_select_;
                driver_features_ &= ~(0xffffffffULL << shift);
                driver_features_ |= (value & 0xffffffff) << shift;
            }
            break;
        case offsetof(PciCommonConfig, config_msix_vector):
            config_vector_.store(checked_vector(value), std::memory_order_relaxed);
            break;
        case offsetof(PciCommonConfig, device_status):
            write_status(static_cast<std::uint8_t>(value));
            break;
        case offsetof(PciCommonConfig, queue_select):
            queue_select_ = static_cast<std::uint16_t>(value);
            break;
        default:
            break;
    }
}

void VirtioPciTransport::write_queue(std::uint64_t offset, std::size_t size, std::uint64_t value) {
    Queue& queue = queues_[queue_select_];
    switch (offset) {
        case offsetof(PciCommonConfig, queue_size):
            write_queue_size(queue, static_cast<std::uint16_t>(value));
            return;
        case offsetof(PciCommonConfig, queue_msix_vector):
            vectors_[queue_select_].store(checked_vector(value), std::memory_order_relaxed);
            return;
        case offsetof(PciCommonConfig, queue_enable):
            if ((value & 0xffff) == 1) {
                enable_queue(queue);
            }
            return;
        case offsetof(PciCommonConfig, queue_reset):
            if ((value & 0xffff) == 1) {
                reset_queue(queue);
            }
            return;
        default:
            break;
    }
    const std::uint64_t first = offsetof(PciCommonConfig, queue_desc);
    if (offset < first || offset >= first + 24 || offset % 4 != 0 || size < 4 || queue.enabled) {
        return;
    }
    const std::array<memory::GuestAddress*, 3> addresses{&queue.setup.descriptors,
                                                         &queue.setup.driver, &queue.setup.device};
    memory::GuestAddress& address = *addresses[(offset - first) / 8];
    const std::uint64_t old = address.value();
    if (offset % 8 == 4) {
        address = memory::GuestAddress((old & 0xffffffff) | value << 32);
    } else {
        address =
            memory::GuestAddress(size >= 8 ? value : (old & ~0xffffffffULL) | (value & 0xffffffff));
    }
}

void VirtioPciTransport::write_queue_size(Queue& queue, std::uint16_t size) {
    const bool packed = (driver_features_ & Feature::kRingPacked) != 0;
    if (!queue.enabled && size != 0 && size <= queue.max_size &&
        (packed || std::has_single_bit(size))) {
        queue.setup.size = size;
    }
}

std::uint16_t VirtioPciTransport::checked_vector(std::uint64_t vector) const {
    // VIRTIO 1.2, 4.1.5.1.2.1: a vector that cannot be is answered with NO_VECTOR.
    return (vector & 0xffff) < msix()->vectors() ? static_cast<std::uint16_t>(vector) : kNoVector;
}

void VirtioPciTransport::write_status(std::uint8_t value) {
    if (value == 0) {
        reset_registers();
        return;
    }
    const auto set = static_cast<std::uint8_t>(value & ~status_);
    status_ |= static_cast<std::uint8_t>(
        value & ~(DeviceStatus::kFeaturesOk | DeviceStatus::kDriverOk | DeviceStatus::kNeedsReset));
    if ((set & DeviceStatus::kFeaturesOk) != 0) {
        const bool subset = (driver_features_ & ~offered()) == 0;
        if (subset && (driver_features_ & Feature::kVersion1) != 0) {
            status_ |= DeviceStatus::kFeaturesOk;
        }
    }
    if ((set & DeviceStatus::kDriverOk) != 0 && (status_ & DeviceStatus::kFeaturesOk) != 0) {
        status_ |= DeviceStatus::kDriverOk;
        start_device();
    }
}

void VirtioPciTransport::start_device() {
    static log::RateLimit limit;
    const auto activated = device_->activate(activation());
    if (!activated.ok()) {
        log::guest(limit, "a virtio device was started with unusable queues device={} reason='{}'",
                   label(), activated.error().text());
        request_reset();
    }
}

Activation VirtioPciTransport::activation() const {
    Activation out;
    out.features = driver_features_;
    for (const Queue& queue : queues_) {
        out.queues.push_back(queue.enabled ? std::optional(queue.setup) : std::nullopt);
    }
    return out;
}

void VirtioPciTransport::enable_queue(Queue& queue) {
    if (queue.enabled || queue.resetting) {
        return;
    }
    queue.enabled = true;
    if ((status_ & DeviceStatus::kDriverOk) != 0) {
        // Only after a queue reset may a queue be enabled while the device runs. VIRTIO 1.2, 2.6.1.
        if ((driver_features_ & Feature::kRingReset) == 0 ||
            !device_->start_queue(queue_select_, queue.setup).ok()) {
            request_reset();
        }
    }
}

void VirtioPciTransport::reset_queue(Queue& queue) {
    if ((driver_features_ & Feature::kRingReset) == 0 || (status_ & DeviceStatus::kDriverOk) == 0 ||
        !queue.enabled) {
        return;
    }
    device_->stop_queue(queue_select_);
    queue.enabled = false;
    queue.resetting = true;
    queue.setup = QueueSetup{};
    queue.setup.size = queue.max_size;
}

void VirtioPciTransport::reset_registers() {
    device_->reset();
    resetting_ = true;
    if (device_->idle()) {
        finish_reset();
    }
}

void VirtioPciTransport::finish_reset() {
    resetting_ = false;
    device_feature_select_ = 0;
    driver_feature_select_ = 0;
    driver_features_ = 0;
    queue_select_ = 0;
    status_ = 0;
    for (Queue& queue : queues_) {
        queue.setup = QueueSetup{};
        queue.setup.size = queue.max_size;
        queue.enabled = false;
        queue.resetting = false;
    }
    needs_reset_.store(false, std::memory_order_relaxed);
    config_vector_.store(kNoVector, std::memory_order_relaxed);
    for (auto& vector : vectors_) {
        vector.store(kNoVector, std::memory_order_relaxed);
    }
    const MutexLock lock(isr_mutex_);
    isr_ = 0;
    set_intx(false);
}

void VirtioPciTransport::reset() {
    {
        const MutexLock lock(registers_mutex_);
        reset_registers();
    }
    PciDevice::reset();
}

// --- Interrupts ---

void VirtioPciTransport::raise(std::uint16_t vector, std::uint8_t isr_bit) {
    if (msix()->enabled()) {
        msix()->raise(vector);  // kNoVector is none of its vectors
        return;
    }
    const MutexLock lock(isr_mutex_);
    isr_ |= isr_bit;
    set_intx(true);
}

void VirtioPciTransport::raise_queue(unsigned queue) {
    raise(vectors_[queue].load(std::memory_order_relaxed), kIsrQueue);
}

void VirtioPciTransport::raise_config() {
    raise(config_vector_.load(std::memory_order_relaxed), kIsrConfig);
}

void VirtioPciTransport::request_reset() {
    needs_reset_.store(true, std::memory_order_relaxed);
    raise_config();
}

}  // namespace strata::virtio
