// PciDevice: configuration accesses, INTx, state.
#include "pci/pci_device.h"

#include <fmt/format.h>

namespace strata::pci {

void PciDevice::add_msix(unsigned vectors, unsigned bar, std::uint32_t table_offset,
                         std::uint32_t pba_offset) {
    msix_ = std::make_unique<Msix>(vectors, bar, table_offset, pba_offset);
    msix_->describe(describe());
}

void PciDevice::connect(bus::MsiSink& msi, bus::IrqLine& intx) {
    line_ = &intx;
    if (msix_) {
        msix_->connect(msi);
    }
}

void PciDevice::config_read(unsigned offset, std::span<std::byte> data) {
    const MutexLock lock(mutex_);
    config_.read(offset, data);
}

void PciDevice::config_write(unsigned offset, std::span<const std::byte> data) {
    const MutexLock lock(mutex_);
    config_.write(offset, data);
    update_intx();
    if (msix_) {
        // Held lock: Msix and the sink below it are leaves, and two writers must not reorder enable
        // and mask.
        msix_->config_written(config_, offset, data.size());
    }
}

void PciDevice::reset() {
    const MutexLock lock(mutex_);
    config_.reset();
    intx_ = false;
    update_intx();
    if (msix_) {
        msix_->reset();
    }
}

Bar PciDevice::bar(unsigned index) const {
    const MutexLock lock(mutex_);
    return config_.bar(index);
}

std::optional<std::uint64_t> PciDevice::decoded_bar(unsigned index) const {
    const MutexLock lock(mutex_);
    return config_.decoded_bar(index);
}

void PciDevice::assign_bar(unsigned index, std::uint64_t address) {
    const MutexLock lock(mutex_);
    config_.set_bar_address(index, address);
}

void PciDevice::assign_interrupt_line(std::uint8_t line) {
    const MutexLock lock(mutex_);
    if (config_.get<std::uint8_t>(Register::kInterruptPin) != 0) {
        config_.set<std::uint8_t>(Register::kInterruptLine, line);
    }
}

void PciDevice::set_command(std::uint16_t bits) {
    const Le16 wire(bits);
    const MutexLock lock(mutex_);
    config_.write(Register::kCommand, std::as_bytes(std::span(&wire, 1)));
    update_intx();
}

void PciDevice::set_intx(bool asserted) {
    const MutexLock lock(mutex_);
    intx_ = asserted;
    update_intx();
}

void PciDevice::update_intx() {
    auto status = config_.get<std::uint16_t>(Register::kStatus);
    status = static_cast<std::uint16_t>(intx_ ? status | Status::kInterrupt
                                              : status & ~Status::kInterrupt);
    config_.set<std::uint16_t>(Register::kStatus, status);
    const bool disabled =
        (config_.get<std::uint16_t>(Register::kCommand) & Command::kIntxDisable) != 0;
    if (line_ != nullptr) {
        line_->set(intx_ && !disabled);
    }
}

void PciDevice::save_pci(state::StateWriter& writer) const {
    writer.begin(fmt::format("pci:{}", label()), 1);
    const MutexLock lock(mutex_);
    config_.save(writer);
    writer.boolean(intx_);
    writer.boolean(msix_ != nullptr);
    if (msix_) {
        msix_->save(writer);
    }
    writer.end();
}

Result<> PciDevice::load_pci(state::StateReader& reader) {
    STRATA_TRY_VOID(reader.begin(fmt::format("pci:{}", label()), 1));
    const MutexLock lock(mutex_);
    config_.load(reader);
    intx_ = reader.boolean();
    if (reader.boolean() != (msix_ != nullptr)) {
        reader.reject("one side has MSI-X, the other not");
    } else if (msix_) {
        msix_->load(reader);
    }
    STRATA_TRY_VOID(reader.end());
    update_intx();
    if (msix_) {
        msix_->config_written(config_, 0, kConfigSize);
    }
    return ok();
}

}  // namespace strata::pci
