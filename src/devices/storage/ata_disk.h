// AtaDisk: an ATA disk with queued commands over a disk image. ATA8-ACS.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/disk_image.h"
#include "devices/storage/ata_device.h"

namespace strata::devices {

struct AtaDiskConfig {
    std::string serial;  ///< at most 20 characters
    block::WriteErrorPolicy write_errors = block::WriteErrorPolicy::Enospc;
    block::ReadErrorPolicy read_errors = block::ReadErrorPolicy::Report;
    std::function<void()> on_wait = {};
};

class AtaDisk final : public AtaDevice {
  public:
    static Result<std::unique_ptr<AtaDisk>> create(const AtaDiskConfig& config,
                                                   std::unique_ptr<block::DiskImage> image);
    ~AtaDisk() override;
    [[nodiscard]] std::uint32_t signature() const override { return 0x00000101; }
    [[nodiscard]] bool packet() const override { return false; }
    void submit(AtaTask task) override;
    void kick() override { queue_->kick(); }
    [[nodiscard]] int completion_fd() const override { return queue_->completion_fd(); }
    void reap(std::vector<AtaCompletion>& out) override;
    void wait() override { queue_->wait(); }
    [[nodiscard]] bool busy() const override { return queue_->in_flight() != 0; }
    void cancel_all() override { queue_->give_up_all(); }
    void reset() override;
    [[nodiscard]] std::optional<block::DiskWait> waiting() const override {
        return queue_->waiting();
    }
    void retry() override { queue_->retry(); }
    [[nodiscard]] block::DiskImage* image() const override { return image_.get(); }
    [[nodiscard]] unsigned depth() const override { return kSlots * 2; }
    void exchange_image(std::unique_ptr<block::DiskImage> image,
                        std::unique_ptr<block::DiskQueue> queue) override;
    void save(state::StateWriter& writer) const override;
    void load(state::StateReader& reader) override;

  private:
    static constexpr unsigned kSlots = 32;
    struct Request {
        AtaTask task;
        AtaProtocol protocol = AtaProtocol::None;
        unsigned outstanding = 0;
        int error = 0;
        bool sync_after = false;
        std::uint64_t moved = 0;
    };
    AtaDisk(const AtaDiskConfig& config, std::unique_ptr<block::DiskImage> image,
            std::unique_ptr<block::PatientQueue> queue);
    void execute(unsigned slot);
    void refuse(unsigned slot);
    void transfer(unsigned slot, AtaProtocol protocol, bool writing, bool extended, bool durable);
    void queued(unsigned slot, bool writing);
    void move(unsigned slot, bool writing, std::uint64_t sector, std::uint64_t count, bool durable);
    void trim(unsigned slot);
    void set_features(unsigned slot);
    void verify(unsigned slot, bool extended);
    void read_log(unsigned slot);
    /// A queued command has failed, and the driver has not asked which.
    [[nodiscard]] bool queue_broken() const { return failed_[2] != 0; }
    [[nodiscard]] bool reads_error_log(unsigned slot) const;
    void flush(unsigned slot);
    void send(unsigned slot, std::vector<std::uint8_t> data);
    void disk(unsigned slot, block::DiskRequest request);
    void completed(unsigned slot);
    void good(unsigned slot, std::uint64_t moved = 0);
    void fail(unsigned slot, std::uint8_t error);
    void end(unsigned slot, AtaCompletion completion);
    [[nodiscard]] std::vector<std::uint8_t> identity() const;
    [[nodiscard]] std::uint64_t sectors() const { return image_->traits().size / 512; }

    const std::string serial_;
    std::unique_ptr<block::DiskImage> image_;
    std::unique_ptr<block::PatientQueue> queue_;
    std::array<Request, kSlots> requests_;
    std::vector<AtaCompletion> finished_;
    std::vector<block::DiskCompletion> scratch_;
    bool write_cache_ = true;
    /// Of the queued command that failed, until log 10h is read: no other is carried out meanwhile.
    std::array<std::uint8_t, 12> failed_{};
};

/// Words of IDENTIFY data as bytes, with its checksum.
std::vector<std::uint8_t> identity_bytes(std::array<std::uint16_t, 256> words);
/// Text in words from `first` to `last`, padded, first character in the upper byte.
void put_identity_text(std::array<std::uint16_t, 256>& words, std::size_t first, std::size_t last,
                       std::string_view text);

}  // namespace strata::devices
