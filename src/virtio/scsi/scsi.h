// ScsiDevice: virtio-scsi: a host bus adapter with one target of many logical units. VIRTIO 1.2,
// 5.6.
//
// Requests are carried to the units (src/scsi/) with views of guest memory, which live until the
// unit has completed, also when the driver has reset the queue meanwhile. Task management waits for
// the tasks that it ends: the host's I/O cannot be taken back. Units may come and go while the
// guest runs; it is told by events, and when it has no place for one, that some were missed.
// Threads: requests and completions on the event loop under the device's lock; pause() and
// unplug() may wait for I/O on their caller's thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "block/disk_user.h"
#include "block/medium_user.h"
#include "scsi/absent_unit.h"
#include "scsi/logical_unit.h"
#include "virtio/core/queued_device.h"
#include "virtio/scsi/wire.h"

namespace strata::virtio {

struct ScsiConfig {
    std::string label = "virtio-scsi0";
    unsigned queues = 1;  ///< request queues, 1 to 64
    std::uint16_t queue_size = 256;
};

class ScsiDevice final : public QueuedDevice, public block::DiskWaiter {
  public:
    static constexpr std::uint16_t kMaxLun = 255;

    static Result<std::unique_ptr<ScsiDevice>> create(const ScsiConfig& config,
                                                      io::EventLoop& loop);
    ~ScsiDevice() override;
    [[nodiscard]] DeviceType type() const override { return DeviceType::Scsi; }
    [[nodiscard]] std::uint64_t offered_features() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    void write_config(std::uint64_t offset, std::span<const std::byte> data) override;
    void reset() override;

    /// Gives the target a unit. InvalidArgument, AlreadyExists. Any thread, at any time.
    Result<> plug(std::uint16_t lun, std::unique_ptr<scsi::LogicalUnit> unit);
    /// Takes a unit away and waits for its I/O. NotFound.
    Result<> unplug(std::uint16_t lun);
    /// The unit's medium has another size now.
    void capacity_changed(std::uint16_t lun);
    /// The disk of unit `lun`, as the machine's owner reaches it; null: there is none, or no
    /// medium. It is there as long as the device, and the unit must be, too.
    [[nodiscard]] block::DiskUser* disk_user(std::uint16_t lun);
    /// The same for the medium of a drive; null: no unit, or no drive.
    [[nodiscard]] block::MediumUser* medium_user(std::uint16_t lun);

    [[nodiscard]] std::optional<block::DiskWait> waiting() const override;
    void retry() override;
    /// WrongState while requests wait for the host.
    Result<> save(state::StateWriter& writer) const override;

  private:
    static constexpr unsigned kControlQueue = 0;
    static constexpr unsigned kEventQueue = 1;
    static constexpr unsigned kFirstRequestQueue = 2;
    static constexpr std::uint32_t kDefaultCdb = 32, kDefaultSense = 96, kMaxField = 256;

    /// A command of the guest; its place in requests_ is the unit's token.
    struct Request {
        bool used = false;
        bool aborted = false;
        std::optional<DescriptorChain> chain;  ///< nullopt: its queue is gone
        std::vector<memory::GuestSlices> views;
        unsigned queue = 0;
        std::uint16_t lun = 0;
        std::uint64_t id = 0;
        std::uint64_t data = 0;  ///< bytes that the guest has for data, either way
        bool reading = false;
        std::uint32_t sense_size = 0;
    };
    /// A task management function that waits for tasks to end.
    struct Waiting {
        DescriptorChain chain;
        std::vector<std::size_t> tasks;
        std::optional<std::uint16_t> reset;  ///< the unit to reset then
        bool reset_all = false;
    };
    class UnitDisk final : public block::DiskUser {
      public:
        UnitDisk(ScsiDevice& device, std::uint16_t lun) : device_(device), lun_(lun) {}
        [[nodiscard]] block::DiskImage& disk() override { return device_.image_of(lun_); }
        Result<> exchange_image(std::unique_ptr<block::DiskImage> image) override {
            return device_.exchange_image(lun_, std::move(image));
        }
        void size_changed() override { device_.capacity_changed(lun_); }

      private:
        ScsiDevice& device_;
        const std::uint16_t lun_;
    };
    class UnitMedium final : public block::MediumUser {
      public:
        UnitMedium(ScsiDevice& device, std::uint16_t lun) : device_(device), lun_(lun) {}
        [[nodiscard]] block::MediumState medium() override { return device_.medium_of(lun_); }
        Result<> change_medium(std::unique_ptr<block::DiskImage> image, bool force) override {
            return device_.change_medium(lun_, std::move(image), force);
        }

      private:
        ScsiDevice& device_;
        const std::uint16_t lun_;
    };
    struct Slot {
        std::unique_ptr<scsi::LogicalUnit> unit;
        std::optional<io::EventLoop::WatchId> watch;
        std::unique_ptr<UnitDisk> disk;
        std::unique_ptr<UnitMedium> medium;  ///< null: no drive
    };

    ScsiDevice(const ScsiConfig& config, io::EventLoop& loop);
    [[nodiscard]] block::DiskImage& image_of(std::uint16_t lun);
    Result<> exchange_image(std::uint16_t lun, std::unique_ptr<block::DiskImage> image);
    [[nodiscard]] block::MediumState medium_of(std::uint16_t lun);
    Result<> change_medium(std::uint16_t lun, std::unique_ptr<block::DiskImage> image, bool force);
    Result<io::EventLoop::WatchId> watch_unit(std::uint16_t lun, int fd);
    void drain_unit(scsi::LogicalUnit& unit) STRATA_REQUIRES(mutex_);

    Result<> serve(unsigned index) STRATA_REQUIRES(mutex_) override;
    Result<> serve_chain(unsigned index, DescriptorChain chain) STRATA_REQUIRES(mutex_) override;
    void queue_stopping(unsigned index) STRATA_REQUIRES(mutex_) override;
    [[nodiscard]] bool quiet(unsigned index) const STRATA_REQUIRES(mutex_) override;
    void drain() STRATA_REQUIRES(mutex_) override;
    void save_device(state::StateWriter& writer) const STRATA_REQUIRES(mutex_) override;
    void load_device(state::StateReader& reader) STRATA_REQUIRES(mutex_) override;

    // request.cc
    Result<> command(unsigned index, DescriptorChain chain) STRATA_REQUIRES(mutex_);
    [[nodiscard]] Result<> look_up(Request& request, scsi::Task& task, std::uint64_t header,
                                   std::uint64_t answer) STRATA_REQUIRES(mutex_);
    void reap() STRATA_REQUIRES(mutex_);
    void reap_unit(scsi::LogicalUnit& unit) STRATA_REQUIRES(mutex_);
    void finish(std::size_t at, const scsi::Completion& completion, scsi_wire::Response response)
        STRATA_REQUIRES(mutex_);
    std::size_t place() STRATA_REQUIRES(mutex_);
    /// nullptr: no such target.
    [[nodiscard]] scsi::LogicalUnit* unit_at(const scsi_wire::Address& address)
        STRATA_REQUIRES(mutex_);
    void kick() STRATA_REQUIRES(mutex_);

    // control.cc
    Result<> control(DescriptorChain chain) STRATA_REQUIRES(mutex_);
    Result<> manage_tasks(DescriptorChain chain) STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::vector<std::size_t> tasks_of(const scsi_wire::TaskManagement& wanted) const
        STRATA_REQUIRES(mutex_);
    void end_tasks(const scsi_wire::TaskManagement& wanted, DescriptorChain chain)
        STRATA_REQUIRES(mutex_);
    void task_ended(std::size_t at) STRATA_REQUIRES(mutex_);
    void function_done(Waiting waiting) STRATA_REQUIRES(mutex_);
    Result<> answer(DescriptorChain chain, scsi_wire::Response response) STRATA_REQUIRES(mutex_);
    Result<> answer_notification(DescriptorChain chain) STRATA_REQUIRES(mutex_);
    Result<> report_missed() STRATA_REQUIRES(mutex_);
    Result<bool> put_event(const scsi_wire::Event& event) STRATA_REQUIRES(mutex_);
    void report(std::uint32_t type, std::uint16_t lun, std::uint32_t reason, std::uint64_t feature)
        STRATA_REQUIRES(mutex_);
    void tell_luns() STRATA_REQUIRES(mutex_);

    std::map<std::uint16_t, Slot> units_ STRATA_GUARDED_BY(mutex_);
    scsi::AbsentUnit absent_ STRATA_GUARDED_BY(mutex_);
    std::vector<Request> requests_ STRATA_GUARDED_BY(mutex_);
    std::vector<std::size_t> free_ STRATA_GUARDED_BY(mutex_);
    std::vector<scsi::Completion> scratch_ STRATA_GUARDED_BY(mutex_);
    std::vector<Waiting> functions_ STRATA_GUARDED_BY(mutex_);
    std::vector<bool> touched_ STRATA_GUARDED_BY(mutex_);  ///< queues to signal
    std::uint32_t cdb_size_ STRATA_GUARDED_BY(mutex_) = kDefaultCdb;
    std::uint32_t sense_size_ STRATA_GUARDED_BY(mutex_) = kDefaultSense;
    bool missed_ STRATA_GUARDED_BY(mutex_) = false;  ///< events for which there was no place
};

}  // namespace strata::virtio
