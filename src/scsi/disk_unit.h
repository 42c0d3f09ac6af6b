// DiskUnit: a direct access block device. SBC-3.
#pragma once

#include "scsi/logical_unit.h"

namespace strata::scsi {

class DiskUnit final : public LogicalUnit {
  public:
    static Result<std::unique_ptr<DiskUnit>> create(const UnitConfig& config,
                                                    std::unique_ptr<block::DiskImage> image);
    [[nodiscard]] DeviceKind kind() const override { return DeviceKind::Disk; }

  private:
    using LogicalUnit::LogicalUnit;
    /// What UNMAP takes at once.
    static constexpr std::uint32_t kMaxUnmapDescriptors = 255;
    static constexpr std::uint32_t kMaxUnmapBlocks = 1U << 22;  // 2 GiB
    static constexpr std::uint32_t kMaxWriteSame = 1U << 21;    // 1 GiB

    [[nodiscard]] std::span<const Command> commands() const override;
    [[nodiscard]] std::string_view product() const override { return "Disk"; }
    [[nodiscard]] std::uint32_t block_size() const override { return 512; }
    [[nodiscard]] std::span<const std::uint16_t> versions() const override;
    [[nodiscard]] std::span<const std::uint8_t> vpd_pages() const override;
    [[nodiscard]] std::vector<std::uint8_t> vpd_page(std::uint8_t page) const override;
    [[nodiscard]] std::span<const std::uint8_t> mode_pages() const override;
    [[nodiscard]] std::vector<std::uint8_t> mode_page(std::uint8_t page) const override;
    [[nodiscard]] std::uint8_t mode_parameter() const override;

    /// Where a command's first block and number of blocks stand, by its length.
    struct Range {
        std::uint64_t block = 0;
        std::uint64_t count = 0;
    };
    [[nodiscard]] Range range_of(std::size_t at) const;
    bool unprotected(std::size_t at);
    void read(std::size_t at);
    void write(std::size_t at);
    void write_and_verify(std::size_t at);
    void verify(std::size_t at);
    void synchronize(std::size_t at);
    void write_same(std::size_t at);
    void unmap(std::size_t at);
    void start_stop(std::size_t at);
    void read_capacity10(std::size_t at);
    void read_capacity16(std::size_t at);
    [[nodiscard]] std::uint8_t physical_exponent() const;
};

}  // namespace strata::scsi
