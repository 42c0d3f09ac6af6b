// ServiceProbe: whether this host's KVM keeps an interrupt in service until the guest ends it.
//
// A local APIC moves a vector from IRR to ISR when it delivers it, and ISR holds it until the guest
// writes EOI (SDM 3A, 11.8.4). KVM on hosts without hardware virtualisation (PVM) was seen to leave
// ISR clear, so that a level-triggered interrupt is reported as ended (KVM_EXIT_IOAPIC_EOI) before
// its handler's first instruction: the IOAPIC's remote IRR reads 0 in the handler, and a line that
// the handler is about to lower asks once more. Nothing is lost, and drivers of shared lines bear
// the extra call, but a guest can see it; so the engine says so in its capabilities.
#pragma once

#include "engine/kvm/kvm_device.h"

namespace strata::engine::kvm {

/// Runs a few instructions of a real-mode guest: true if its interrupt is in service while the
/// handler runs. An error if KVM refused something or the guest did not get as far.
Result<bool> keeps_interrupts_in_service(const KvmFd& device, int vcpu_mapping_size);

}  // namespace strata::engine::kvm
