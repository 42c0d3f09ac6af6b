// AtapiDrive: a CD or DVD drive on a SATA port: packets for a SCSI unit. ATA8-ACS, 4.3; MMC-6.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "devices/storage/ata_device.h"
#include "scsi/cd_unit.h"

namespace strata::devices {

class AtapiDrive final : public AtaDevice {
  public:
    AtapiDrive(std::unique_ptr<scsi::CdUnit> unit, std::string serial)
        : unit_(std::move(unit)), serial_(std::move(serial)) {}
    [[nodiscard]] std::uint32_t signature() const override { return 0xeb140101; }
    [[nodiscard]] bool packet() const override { return true; }
    void submit(AtaTask task) override;
    void kick() override { unit_->kick(); }
    [[nodiscard]] int completion_fd() const override { return unit_->completion_fd(); }
    void reap(std::vector<AtaCompletion>& out) override;
    void wait() override { unit_->wait(); }
    [[nodiscard]] bool busy() const override { return unit_->busy(); }
    void cancel_all() override { unit_->cancel_all(); }
    void reset() override {
        unit_->reset();
        sense_ = {};
    }
    [[nodiscard]] std::optional<block::DiskWait> waiting() const override {
        return unit_->waiting();
    }
    void retry() override { unit_->retry(); }
    void save(state::StateWriter& writer) const override;
    void load(state::StateReader& reader) override;
    [[nodiscard]] scsi::CdUnit& unit() { return *unit_; }

  private:
    void end(const AtaTask& task, AtaCompletion completion);
    void identify(AtaTask task);
    void packet_task(const AtaTask& task);
    void request_sense(const AtaTask& task);
    [[nodiscard]] std::vector<std::uint8_t> identity() const;

    const std::unique_ptr<scsi::CdUnit> unit_;
    const std::string serial_;
    std::array<AtaRegisters, 32> registers_{};            ///< of packets under way, by slot
    std::array<std::uint8_t, scsi::kSenseSize> sense_{};  ///< of the last packet, if it failed
    std::vector<AtaCompletion> finished_;
    std::vector<scsi::Completion> scratch_;
};

}  // namespace strata::devices
