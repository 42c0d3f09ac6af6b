// CpuEngine, EngineVm: what runs guest code: KVM (hardware) or soft (Strata's own software CPU).
//
// Both engines own the local APICs of their vCPUs (with TSC-deadline timer and x2APIC), the TSC and
// the KVM paravirtual leaf (kvmclock, PV EOI, PV IPI, PV TLB flush, PV unhalt); the IOAPIC, the
// PICs and every other device belong to the machine and talk to an engine through MsiSink and
// set_external_interrupt().
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/cpuid.h"
#include "base/result.h"
#include "bus/interrupt.h"
#include "engine/io_dispatcher.h"
#include "engine/vcpu.h"
#include "memory/guest_ram.h"

namespace strata::engine {

/// What an engine offers on this host.
struct Capabilities {
    /// The features a guest may be shown, as a full CPUID table (leaf 1, 7, 0Dh, 80000001h …, and
    /// 4000_0001h for the paravirtual ones).
    arch::x86::CpuidTable supported_cpuid;
    std::uint64_t tsc_khz = 0;
    std::uint32_t max_vcpus = 0;
    /// What of the architecture this host's engine is known to lack, a sentence each without full
    /// stop; a guest may notice.
    std::vector<std::string> limitations;
};

/// A verdict for `strata info` and for `--engine auto`.
struct Verdict {
    bool usable = false;
    std::string reason;  ///< one sentence for people, also when usable
    double probe_mips =
        0.0;  ///< million guest instructions a second in the probe guest; 0 if not probed
};

struct VcpuConfig {
    std::uint32_t index = 0;
    std::uint32_t apic_id = 0;
    bool bootstrap = false;
    arch::x86::CpuidTable cpuid;
};

/// The vCPUs and the memory map of one machine.
class EngineVm : public bus::MsiSink {
  public:
    /// Makes a vCPU in its power-on state. Before any vCPU runs.
    virtual Result<std::unique_ptr<Vcpu>> create_vcpu(const VcpuConfig& config) = 0;

    /// Level of the 8259 pair's INTR output (ExtINT, wired to LINT0 of the bootstrap vCPU). Any
    /// thread.
    virtual void set_external_interrupt(bool asserted) = 0;
    /// All routes of the IOAPIC, whenever one changed. Any thread. The soft engine needs no
    /// forewarning and ignores it.
    virtual void set_irq_routes(const std::vector<bus::IrqRoute>& routes) = 0;
    /// An NMI for one vCPU. Any thread.
    virtual void inject_nmi(std::uint32_t vcpu_index) = 0;

    /// Dirty logging of vCPU writes into GuestRam::dirty(): switched on or off, and brought up to
    /// date (KVM fetches its log into the bitmap; the soft engine marks as it writes and cuts write
    /// permission in its TLBs here). Any thread, vCPUs may run.
    virtual Result<> set_dirty_logging(bool on) = 0;
    virtual Result<> sync_dirty_log() = 0;

    /// Stops, restarts the guest-visible clocks (kvmclock; the TSC too where the engine owns it).
    /// All vCPUs stopped.
    virtual Result<> save_clock(state::StateWriter& writer) = 0;
    virtual Result<> load_clock(state::StateReader& reader) = 0;
};

class CpuEngine {
  public:
    virtual ~CpuEngine() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual const Capabilities& capabilities() const = 0;
    /// A machine over `ram`; both arguments outlive it.
    virtual Result<std::unique_ptr<EngineVm>> create_vm(memory::GuestRam& ram,
                                                        IoDispatcher& io) = 0;
};

}  // namespace strata::engine
