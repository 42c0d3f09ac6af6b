// AbsentUnit: who answers for the numbers of a target that no unit has: what there is instead, and
// that nothing is here. SPC-4, 6.6.2 (peripheral qualifier 011b).
#pragma once

#include "scsi/logical_unit.h"

namespace strata::scsi {

class AbsentUnit final : public LogicalUnit {
  public:
    AbsentUnit() : LogicalUnit({}, nullptr, nullptr) {}
    [[nodiscard]] DeviceKind kind() const override { return DeviceKind::Disk; }

  private:
    [[nodiscard]] std::span<const Command> commands() const override { return {}; }
    [[nodiscard]] std::string_view product() const override { return ""; }
    [[nodiscard]] std::uint32_t block_size() const override { return 512; }
    [[nodiscard]] std::uint8_t peripheral() const override { return 0x7f; }
    [[nodiscard]] Sense medium_state() const override { return sense::kNoSuchUnit; }
    [[nodiscard]] std::span<const std::uint16_t> versions() const override { return {}; }
    [[nodiscard]] std::span<const std::uint8_t> mode_pages() const override { return {}; }
    [[nodiscard]] std::vector<std::uint8_t> mode_page(std::uint8_t /*page*/) const override {
        return {};
    }
};

}  // namespace strata::scsi
