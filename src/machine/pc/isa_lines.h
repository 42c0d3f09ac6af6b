// IsaLine: an ISA interrupt on the PC board: one line into the 8259 pair and the IOAPIC at once.
#pragma once

#include "bus/interrupt.h"

namespace strata::machine::pc {

/// Fans a device's line out to both controllers; the guest masks the one that it does not use. Any
/// thread.
class IsaLine final : public bus::IrqLine {
  public:
    IsaLine(bus::IrqLine& pic, bus::IrqLine& io_apic) : pic_(pic), io_apic_(io_apic) {}
    void set(bool asserted) override {
        pic_.set(asserted);
        io_apic_.set(asserted);
    }

  private:
    bus::IrqLine& pic_;
    bus::IrqLine& io_apic_;
};

}  // namespace strata::machine::pc
