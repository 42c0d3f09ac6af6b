// MachineEvents: what a machine tells whoever runs it.
#pragma once

#include <cstdint>

#include "devices/misc/pvpanic.h"

namespace strata::machine {

/// Called on vCPU threads (or the event loop's, for host actions), without a lock, possibly from
/// several at once and more than once. The receiver makes the vCPUs leave their run() and acts
/// outside of them; it does not call the machine back from here.
class MachineEvents {
  public:
    virtual ~MachineEvents() = default;
    /// The guest switched the machine off.
    virtual void power_off() = 0;
    /// The guest asked for a reset (ACPI reset register, keyboard controller, port 92h).
    virtual void reset() = 0;
    /// The guest's kernel reported a panic.
    virtual void guest_crash(devices::GuestCrash crash) = 0;
    /// The guest wrote `value` to the debug-exit port.
    virtual void debug_exit(std::uint32_t value) = 0;
};

}  // namespace strata::machine
