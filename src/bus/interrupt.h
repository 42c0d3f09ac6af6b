// Interrupts: lines, messages and the seams between devices, interrupt controllers and CPU engines.
//
// The path of an interrupt: a device moves its IrqLine; the board fans a line (a GSI) out to PIC
// and IOAPIC; the IOAPIC and PCI functions with MSI send an MsiMessage to the MsiSink, which is the
// engine: it owns the local APICs of all vCPUs, with both engines. The PIC's output is the engine's
// ExtINT input. When a vCPU ends a level-triggered interrupt, the engine calls EoiListener (the
// IOAPIC). Threads: every call here may come from any thread; implementations guard themselves and
// do not call back into the device that called while holding a lock it could need.
#pragma once

#include <cstdint>

namespace strata::bus {

/// A message-signalled interrupt: what a device writes to FEEx_xxxx. SDM 3A, 11.11.
struct MsiMessage {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
    bool operator==(const MsiMessage&) const = default;
};

/// One interrupt input, seen from the device.
class IrqLine {
  public:
    virtual ~IrqLine() = default;
    /// Asserts or releases the line. For edge-triggered inputs only the rise counts. Idempotent.
    virtual void set(bool asserted) = 0;
    /// A rise and a fall.
    void pulse() {
        set(true);
        set(false);
    }
};

/// Takes interrupt messages. Unknown destinations are dropped, as on hardware.
class MsiSink {
  public:
    virtual ~MsiSink() = default;
    virtual void send(const MsiMessage& message) = 0;
};

/// Told that some vCPU ended (EOI) level-triggered interrupt `vector`.
class EoiListener {
  public:
    virtual ~EoiListener() = default;
    virtual void end_of_interrupt(std::uint8_t vector) = 0;
};

/// Answers the INTA cycle: the 8259 pair. Called on the vCPU thread that takes the interrupt.
class ExtIntSource {
  public:
    virtual ~ExtIntSource() = default;
    /// The vector, and moves it from requested to in service. A spurious vector if nothing is
    /// pending any more.
    virtual std::uint8_t acknowledge() = 0;
};

/// A route of the IOAPIC, as told to an engine that must know beforehand which vectors need an EOI
/// (KVM).
struct IrqRoute {
    std::uint32_t gsi = 0;
    MsiMessage message;
    bool level = false;
    bool masked = true;
};

}  // namespace strata::bus
