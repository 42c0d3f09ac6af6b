// VirtioPciTransport: saving and loading its registers; the device follows with sections of its
// own.
#include <bit>

#include <fmt/format.h>

#include "virtio/transport/pci/virtio_pci.h"

namespace strata::virtio {

Result<> VirtioPciTransport::save(state::StateWriter& writer) const {
    save_pci(writer);
    {
        const MutexLock lock(registers_mutex_);
        writer.begin(fmt::format("virtio-pci:{}", label()), 1);
        writer.u32(device_feature_select_);
        writer.u32(driver_feature_select_);
        writer.u64(driver_features_);
        writer.u16(queue_select_);
        writer.u8(status_);
        writer.boolean(resetting_);
        writer.boolean(needs_reset_.load(std::memory_order_relaxed));
        writer.u16(config_vector_.load(std::memory_order_relaxed));
        for (std::size_t index = 0; index < queues_.size(); ++index) {
            const Queue& queue = queues_[index];
            writer.u16(queue.setup.size);
            writer.u64(queue.setup.descriptors.value());
            writer.u64(queue.setup.driver.value());
            writer.u64(queue.setup.device.value());
            writer.boolean(queue.enabled);
            writer.boolean(queue.resetting);
            writer.u16(vectors_[index].load(std::memory_order_relaxed));
        }
        writer.u8(isr());
        writer.end();
    }
    return device_->save(writer);
}

Result<> VirtioPciTransport::load(state::StateReader& reader) {
    STRATA_TRY_VOID(load_pci(reader));
    {
        const MutexLock lock(registers_mutex_);
        device_->reset();
        STRATA_TRY_VOID(reader.begin(fmt::format("virtio-pci:{}", label()), 1));
        device_feature_select_ = reader.u32();
        driver_feature_select_ = reader.u32();
        driver_features_ = reader.u64();
        queue_select_ = reader.u16();
        status_ = reader.u8();
        resetting_ = reader.boolean();
        needs_reset_.store(reader.boolean(), std::memory_order_relaxed);
        config_vector_.store(checked_vector(reader.u16()), std::memory_order_relaxed);
        for (std::size_t index = 0; index < queues_.size(); ++index) {
            Queue& queue = queues_[index];
            queue.setup.size = reader.u16();
            queue.setup.descriptors = memory::GuestAddress(reader.u64());
            queue.setup.driver = memory::GuestAddress(reader.u64());
            queue.setup.device = memory::GuestAddress(reader.u64());
            queue.enabled = reader.boolean();
            queue.resetting = reader.boolean();
            vectors_[index].store(checked_vector(reader.u16()), std::memory_order_relaxed);
            if (queue.setup.size == 0 || queue.setup.size > queue.max_size) {
                reader.reject("a queue has a size that the device does not offer");
            }
        }
        set_isr(reader.u8());
        if ((driver_features_ & ~offered()) != 0 && (status_ & DeviceStatus::kFeaturesOk) != 0) {
            reader.reject("the driver uses features that the device does not offer");
        }
        STRATA_TRY_VOID(reader.end());
        if ((status_ & DeviceStatus::kDriverOk) != 0 && !resetting_) {
            const auto activated = device_->activate(activation());
            // A device that already waited for its reset because of bad queues comes back so.
            if (!activated.ok() && !needs_reset_.load(std::memory_order_relaxed)) {
                return activated.error();
            }
        }
    }
    return device_->load(reader);
}

std::uint8_t VirtioPciTransport::isr() const {
    const MutexLock lock(isr_mutex_);
    return isr_;
}

void VirtioPciTransport::set_isr(std::uint8_t value) {
    const MutexLock lock(isr_mutex_);
    isr_ = value;
}

}  // namespace strata::virtio
