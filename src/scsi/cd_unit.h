// CdUnit: a CD or DVD drive with a tray. MMC-6.
//
// The disc is an image, read-only whatever it allows. The guest opens and closes the tray; the disc
// stays in it. While the guest has locked the tray it stays shut, and the owner of the machine, who
// changes discs, must ask (an event for the guest) or force it open.
#pragma once

#include "scsi/logical_unit.h"

namespace strata::scsi {

class CdUnit final : public LogicalUnit {
  public:
    /// `image`: null for an empty drive.
    static Result<std::unique_ptr<CdUnit>> create(const UnitConfig& config,
                                                  std::unique_ptr<block::DiskImage> image);
    [[nodiscard]] DeviceKind kind() const override { return DeviceKind::CdRom; }
    [[nodiscard]] bool tray_open() const { return tray_open_; }
    [[nodiscard]] bool locked() const { return locked_; }

    /// Before a disc is changed: WrongState if the guest has locked the tray and it is not forced.
    Result<> open_tray_for_owner(bool force);
    /// For change_medium().
    Result<std::unique_ptr<block::PatientQueue>> open_disc(block::DiskImage& image) const {
        return open_queue(image, config_);
    }
    /// Another disc, and a shut tray; or none (both null), and an open one. Nothing may be
    /// in_flight().
    void change_medium(std::unique_ptr<block::DiskImage> image,
                       std::unique_ptr<block::PatientQueue> queue);

  private:
    CdUnit(const UnitConfig& config, std::unique_ptr<block::DiskImage> image,
           std::unique_ptr<block::PatientQueue> queue)
        : LogicalUnit(config, std::move(image), std::move(queue)), config_(config) {}
    /// Of GET EVENT STATUS NOTIFICATION.
    enum class MediaEvent : std::uint8_t { None = 0, EjectRequest = 1, NewMedia = 2, Removed = 3 };

    [[nodiscard]] std::span<const Command> commands() const override;
    [[nodiscard]] std::string_view product() const override { return "DVD-ROM"; }
    [[nodiscard]] std::uint32_t block_size() const override { return 2048; }
    [[nodiscard]] bool removable() const override { return true; }
    [[nodiscard]] Sense medium_state() const override;
    [[nodiscard]] std::span<const std::uint16_t> versions() const override;
    [[nodiscard]] std::span<const std::uint8_t> mode_pages() const override;
    [[nodiscard]] std::vector<std::uint8_t> mode_page(std::uint8_t page) const override;
    void on_reset() override;
    void save_unit(state::StateWriter& writer) const override;
    void load_unit(state::StateReader& reader) override;

    [[nodiscard]] std::uint16_t profile() const;
    void move_tray(bool open);
    void read(std::size_t at);
    void read_cd(std::size_t at);
    void seek(std::size_t at);
    void start_stop(std::size_t at);
    void prevent_removal(std::size_t at);
    void read_capacity(std::size_t at);
    void read_toc(std::size_t at);
    void get_configuration(std::size_t at);
    void get_event_status(std::size_t at);
    void read_disc_information(std::size_t at);
    void mechanism_status(std::size_t at);
    void set_speed(std::size_t at) { good(at); }

    const UnitConfig config_;
    bool tray_open_ = false;
    bool locked_ = false;
    MediaEvent event_ = MediaEvent::None;
};

}  // namespace strata::scsi
