// PciDevice: one PCI function: its configuration space, its interrupts, and the accesses to its
// BARs.
//
// A device describes itself in its constructor (identity, BARs, capabilities, MSI-X) and is then
// given to PciRoot, which carries the guest's accesses to it. It does not learn where its BARs lie.
// Threads: config_*() and bar_*() come from any vCPU thread, interrupts may be raised from any
// thread. The lock here guards the configuration space and the INTx level only and is never held
// while device code is called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/mutex.h"
#include "base/result.h"
#include "bus/interrupt.h"
#include "pci/config_space.h"
#include "pci/msix.h"
#include "state/snapshottable.h"

namespace strata::pci {

class PciDevice : public state::Pausable, public state::Snapshottable {
  public:
    /// Name for logs and state sections, e.g. "virtio-blk0".
    [[nodiscard]] virtual std::string_view label() const = 0;

    /// The guest's access to configuration registers. `offset` below 4096; 1 to 8 bytes, cut at the
    /// end of the space.
    virtual void config_read(unsigned offset, std::span<std::byte> data);
    virtual void config_write(unsigned offset, std::span<const std::byte> data);

    /// The guest's access inside BAR `bar`; `offset` is below the BAR's size. Registers that do not
    /// exist read as all ones (`data` comes filled so).
    virtual void bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data) = 0;
    virtual void bar_write(unsigned bar, std::uint64_t offset, std::span<const std::byte> data) = 0;

    /// Back to the state after power-on. An override calls this one.
    virtual void reset();

    /// Connects the interrupts; once, by PciRoot. Both outlive the device.
    void connect(bus::MsiSink& msi, bus::IrqLine& intx);
    /// What BAR `index` is and where it answers now.
    [[nodiscard]] Bar bar(unsigned index) const;
    [[nodiscard]] std::optional<std::uint64_t> decoded_bar(unsigned index) const;
    /// Firmware's part: programs a BAR, the interrupt line register, and switches decoding on.
    void assign_bar(unsigned index, std::uint64_t address);
    void assign_interrupt_line(std::uint8_t line);
    void set_command(std::uint16_t bits);

  protected:
    explicit PciDevice(const Identity& identity) : config_(identity) {}

    /// For constructors: the space to describe, then add_msix() if wanted, then seal().
    ConfigSpace& describe() STRATA_NO_THREAD_SAFETY_ANALYSIS { return config_; }
    void add_msix(unsigned vectors, unsigned bar, std::uint32_t table_offset,
                  std::uint32_t pba_offset);
    void seal() STRATA_NO_THREAD_SAFETY_ANALYSIS { config_.seal(); }

    /// nullptr if add_msix() was not called.
    [[nodiscard]] Msix* msix() { return msix_.get(); }
    [[nodiscard]] const Msix* msix() const { return msix_.get(); }
    /// Asserts or releases INTA#. Any thread. Masked by the command register's bit, shown in the
    /// status register.
    void set_intx(bool asserted);

    /// Writes and reads the section "pci:LABEL".
    void save_pci(state::StateWriter& writer) const;
    Result<> load_pci(state::StateReader& reader);

  private:
    void update_intx() STRATA_REQUIRES(mutex_);

    mutable Mutex mutex_;
    ConfigSpace config_ STRATA_GUARDED_BY(mutex_);
    bool intx_ STRATA_GUARDED_BY(mutex_) = false;
    std::unique_ptr<Msix> msix_;
    bus::IrqLine* line_ = nullptr;  ///< set once, before the guest runs
};

}  // namespace strata::pci
