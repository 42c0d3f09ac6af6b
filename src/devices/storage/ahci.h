// AhciController: a SATA controller with one device on each port. AHCI 1.3.1.
//
// Registers lie in BAR 5. A write that gives commands only wakes the event loop, whose thread reads
// command lists and tables, looks the guest's memory up and hands tasks to the devices; views of
// guest memory live until the device has completed. A port that is stopped or reset in the middle
// reports so (CR, BSY) until the last of its I/O has ended; what that brings is dropped. Memory
// that is not RAM, and tables that make no sense, end the command with a host bus error. One
// INTx line. Threads: registers from any vCPU, commands on the event loop, all under one lock;
// pause() may wait for I/O on its caller's thread.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "block/disk_user.h"
#include "block/medium_user.h"
#include "devices/storage/ata_device.h"
#include "io/event_loop.h"
#include "memory/guest_memory.h"
#include "pci/pci_device.h"

namespace strata::devices {

class AhciController final : public pci::PciDevice, public block::DiskWaiter {
  public:
    static constexpr unsigned kMaxPorts = 30;
    static constexpr unsigned kBar = 5;
    static constexpr std::uint64_t kBarSize = 4096;

    /// A port for each of `devices` (1 to 30). `memory` and `loop` outlive the controller, which is
    /// destroyed on the loop's thread or after it stopped.
    static Result<std::unique_ptr<AhciController>> create(
        std::vector<std::unique_ptr<AtaDevice>> devices, const memory::GuestMemory& memory,
        io::EventLoop& loop);
    ~AhciController() override;

    [[nodiscard]] std::string_view label() const override { return "ahci0"; }
    void bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data) override;
    void bar_write(unsigned bar, std::uint64_t offset, std::span<const std::byte> data) override;
    void reset() override;

    Result<> pause() override;
    Result<> resume() override;
    /// Sections "pci:ahci0" and "ahci:ahci0". WrongState while requests wait for the host.
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

    [[nodiscard]] std::optional<block::DiskWait> waiting() const override;
    void retry() override;
    /// The disk of a port, as the machine's owner reaches it, as long as the controller is there;
    /// null: none, or a drive.
    [[nodiscard]] block::DiskUser* disk_user(unsigned port);
    /// The same for the medium of a drive; null: none, or a disk.
    [[nodiscard]] block::MediumUser* medium_user(unsigned port);

  private:
    // A disk that was identified keeps its size: Linux gives one up that has another after an
    // error.
    class PortDisk final : public block::DiskUser {
      public:
        PortDisk(AhciController& controller, unsigned port)
            : controller_(controller), port_(port) {}
        [[nodiscard]] block::DiskImage& disk() override { return controller_.image_of(port_); }
        Result<> exchange_image(std::unique_ptr<block::DiskImage> image) override {
            return controller_.exchange_image(port_, std::move(image));
        }
        [[nodiscard]] bool tells_size() const override { return false; }
        void size_changed() override {}

      private:
        AhciController& controller_;
        const unsigned port_;
    };
    class PortMedium final : public block::MediumUser {
      public:
        PortMedium(AhciController& controller, unsigned port)
            : controller_(controller), port_(port) {}
        [[nodiscard]] block::MediumState medium() override { return controller_.medium_of(port_); }
        Result<> change_medium(std::unique_ptr<block::DiskImage> image, bool force) override {
            return controller_.change_medium(port_, std::move(image), force);
        }

      private:
        AhciController& controller_;
        const unsigned port_;
    };
    static constexpr unsigned kSlots = 32;
    struct Slot {
        bool busy = false;   ///< the device has it
        bool stale = false;  ///< given before the port was stopped or reset
        std::uint64_t header = 0;
        std::vector<memory::GuestSlices> views;
    };
    struct Port {
        std::unique_ptr<AtaDevice> device;
        std::optional<io::EventLoop::WatchId> watch;
        std::uint32_t list_low = 0, list_high = 0, fis_low = 0, fis_high = 0;
        std::uint32_t status = 0, enable = 0;  ///< interrupts
        std::uint32_t command = 0;
        std::uint32_t task_file = 0, signature = 0;
        std::uint32_t control = 0, error = 0;
        std::uint32_t active = 0, issued = 0;
        bool in_reset = false;       ///< by software, between its two FISes
        bool reset_pending = false;  ///< comes out of a reset when its I/O has ended
        bool halted = false;         ///< an error: until the driver has stopped it
        std::array<Slot, kSlots> slots;
        std::unique_ptr<PortDisk> disk;
        std::unique_ptr<PortMedium> medium;  ///< null: no drive
    };

    AhciController(std::vector<std::unique_ptr<AtaDevice>> devices,
                   const memory::GuestMemory& memory, io::EventLoop& loop);
    Result<> watch_devices();
    Result<io::EventLoop::WatchId> watch_port(std::size_t index, int fd);
    [[nodiscard]] block::DiskImage& image_of(unsigned port);
    Result<> exchange_image(unsigned port, std::unique_ptr<block::DiskImage> image);
    [[nodiscard]] block::MediumState medium_of(unsigned port);
    Result<> change_medium(unsigned port, std::unique_ptr<block::DiskImage> image, bool force);
    void drain(Port& port) STRATA_REQUIRES(mutex_);

    // registers.cc
    [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint32_t read_port(const Port& port, std::uint64_t offset) const
        STRATA_REQUIRES(mutex_);
    void write_register(std::uint64_t offset, std::uint32_t value) STRATA_REQUIRES(mutex_);
    void write_port(Port& port, std::uint64_t offset, std::uint32_t value) STRATA_REQUIRES(mutex_);
    void write_command(Port& port, std::uint32_t value) STRATA_REQUIRES(mutex_);
    void write_control(Port& port, std::uint32_t value) STRATA_REQUIRES(mutex_);
    void reset_controller() STRATA_REQUIRES(mutex_);
    void update_interrupt() STRATA_REQUIRES(mutex_);
    void raise(Port& port, std::uint32_t bits) STRATA_REQUIRES(mutex_);

    // commands.cc
    void wake() STRATA_REQUIRES(mutex_);
    void work();
    void serve(Port& port) STRATA_REQUIRES(mutex_);
    void issue(Port& port, unsigned slot) STRATA_REQUIRES(mutex_);
    void software_reset(Port& port, unsigned slot, std::uint8_t control) STRATA_REQUIRES(mutex_);
    Result<> look_up(Port& port, unsigned slot, std::uint64_t table, unsigned entries,
                     AtaTask& task) STRATA_REQUIRES(mutex_);
    void bus_error(Port& port) STRATA_REQUIRES(mutex_);
    void abandon(Port& port) STRATA_REQUIRES(mutex_);
    void settle(Port& port) STRATA_REQUIRES(mutex_);
    void come_out_of_reset(Port& port) STRATA_REQUIRES(mutex_);
    void reap(Port& port) STRATA_REQUIRES(mutex_);
    void finish(Port& port, const AtaCompletion& done) STRATA_REQUIRES(mutex_);
    void finish_queued(Port& port, const AtaCompletion& done) STRATA_REQUIRES(mutex_);
    void post_fis(Port& port, std::uint64_t place, std::span<const std::uint8_t> fis)
        STRATA_REQUIRES(mutex_);
    void post_registers(Port& port, const AtaCompletion& done, bool interrupt)
        STRATA_REQUIRES(mutex_);
    void post_pio_setup(Port& port, const AtaCompletion& done) STRATA_REQUIRES(mutex_);
    [[nodiscard]] static bool under_way(const Port& port);

    const memory::GuestMemory& memory_;
    io::EventLoop& loop_;
    mutable Mutex mutex_;  ///< before PciDevice's and guest memory's
    std::vector<Port> ports_ STRATA_GUARDED_BY(mutex_);
    std::uint32_t global_control_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint32_t interrupts_ STRATA_GUARDED_BY(mutex_) = 0;
    bool woken_ STRATA_GUARDED_BY(mutex_) = false;
    /// Work that is posted looks here whether there is still a controller.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    std::vector<AtaCompletion> scratch_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::devices
