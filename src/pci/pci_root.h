// PciRoot: the host bridge and bus 0: configuration mechanisms, BAR windows and INTx routing.
//
// How a board uses it:
//
//   auto root = STRATA_TRY(pci::PciRoot::create({.ecam_base = 0xb000'0000, .mmio32 = {0xc000'0000,
//   0x2000'0000},
//                                                .mmio64 = {0x80'0000'0000, 1ULL << 36}, .io =
//                                                {0xc000, 0x4000}, .intx = {&gsi16, &gsi17, &gsi18,
//                                                &gsi19}, .intx_gsi = {16, 17, 18, 19}},
//                                               mmio_bus, port_bus, msi_sink));
//   auto disk = STRATA_TRY(virtio::BlkDevice::create(...));                       // a
//   virtio::VirtioDevice STRATA_TRY_VOID(root->add(1,
//   std::make_unique<virtio::VirtioPciTransport>(std::move(disk), ram))); root->assign_resources();
//   // firmware's part; again after reset()
//
// The root claims its windows on the buses once and finds BARs inside them itself, because a guest
// may move a BAR as often as it likes. A BAR answers only wholly inside a window and when it
// overlaps no other that answers already. The ACPI tables should give the same windows in _CRS, 32
// interrupt routes (swizzle()) in _PRT, and ECAM in MCFG. Devices: slots 1 to 31 of bus 0, function
// 0; the root owns them. Slot 0 is the bridge. Threads: accesses from any vCPU; add() only before
// the machine runs. Lock order: root, then device.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/result.h"
#include "bus/bus.h"
#include "bus/interrupt.h"
#include "pci/pci_device.h"
#include "state/snapshottable.h"

namespace strata::pci {

/// An address range that the bridge forwards to its bus. Size 0: none.
struct Window {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
};

struct PciRootConfig {
    std::uint64_t ecam_base = 0;  ///< 1 MiB of MMIO: bus 0 only
    Window mmio32;                ///< below 4 GiB
    Window mmio64;                ///< above
    Window io;                    ///< I/O ports
    std::array<bus::IrqLine*, 4>
        intx{};  ///< where INTA# to INTD# of the bridge lead; nullptr: nowhere
    std::array<std::uint8_t, 4> intx_gsi{};  ///< their GSIs, for the interrupt line registers
    bus::BusDevice* reset_control =
        nullptr;  ///< answers byte accesses to port 0xcf9 (inside 0xcf8 to 0xcfb), offset 0
};

class PciRoot final : public state::Pausable, public state::Snapshottable {
  public:
    static constexpr unsigned kSlots = 32;
    static constexpr std::uint64_t kEcamSize = 1ULL << 20;

    /// Claims ECAM and the windows on `mmio`, 0xcf8 to 0xcff and the I/O window on `ports`. All
    /// outlive the root.
    static Result<std::unique_ptr<PciRoot>> create(const PciRootConfig& config, bus::Bus& mmio,
                                                   bus::Bus& ports, bus::MsiSink& msi);
    ~PciRoot() override;

    /// Puts `device` into `slot` (1 to 31). AlreadyExists, InvalidArgument. Before the machine
    /// runs.
    Result<> add(unsigned slot, std::unique_ptr<PciDevice> device);
    [[nodiscard]] PciDevice* device(unsigned slot) const { return slots_[slot].device.get(); }

    /// Programs all BARs (32-bit window first, then the 64-bit one), interrupt lines and command
    /// registers, as firmware would, so that guests without PCI code of their own find everything
    /// mapped. Failed if a window is too small.
    Result<> assign_resources();
    /// Resets the bridge and all devices; BARs are unassigned afterwards.
    void reset();

    /// Which of the four lines pin `pin` (0 is INTA#) of `slot` drives.
    [[nodiscard]] static constexpr unsigned swizzle(unsigned slot, unsigned pin) {
        return (slot + pin) % 4;
    }

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    class Ecam;
    class Ports;
    class WindowDevice;
    class Pin;

    /// One BAR of one device. `start` is where it answers, kUnmapped if nowhere; all else is
    /// constant once added.
    struct BarEntry {
        static constexpr std::uint64_t kUnmapped = ~0ULL;
        std::atomic<std::uint64_t> start{kUnmapped};
        std::uint64_t size = 0;
        PciDevice* device = nullptr;
        unsigned index = 0;
        bool io = false;
    };
    struct Slot {
        std::unique_ptr<PciDevice> device;
        std::unique_ptr<Pin> pin;
    };

    PciRoot(const PciRootConfig& config, bus::MsiSink& msi);
    Result<> claim(bus::Bus& mmio, bus::Bus& ports);
    void config_read(unsigned slot, unsigned offset, std::span<std::byte> data) const;
    void config_write(unsigned slot, unsigned offset, std::span<const std::byte> data);
    [[nodiscard]] const BarEntry* find(std::uint64_t address, bool io) const;
    void remap() STRATA_EXCLUDES(mutex_);
    [[nodiscard]] bool may_map(const BarEntry& entry, std::uint64_t start) const;
    void pin_changed(unsigned slot, bool asserted);

    const PciRootConfig config_;
    bus::MsiSink& msi_;
    bus::Bus* mmio_ = nullptr;
    bus::Bus* port_bus_ = nullptr;
    std::unique_ptr<Ecam> ecam_;
    std::unique_ptr<Ports> ports_;
    std::array<std::unique_ptr<WindowDevice>, 3> windows_;
    std::array<Slot, kSlots> slots_;
    /// Filled by add() only; `start` is written under mutex_ (release) and read without (acquire).
    std::array<BarEntry, kSlots * kBarCount> bars_;
    std::size_t bar_count_ = 0;
    mutable Mutex mutex_;
    Mutex pin_mutex_;  ///< a leaf
    std::array<std::uint32_t, 4> pin_slots_
        STRATA_GUARDED_BY(pin_mutex_){};  ///< slots that assert each line
};

}  // namespace strata::pci
