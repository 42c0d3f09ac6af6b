// ApicBus: who is meant by a destination. SDM 3A, 11.6.2 and 11.12.10.
#include "engine/soft/apic/apic_registers.h"
#include "engine/soft/apic/local_apic.h"

namespace strata::engine::soft {

using namespace apic;  // NOLINT(google-build-using-namespace): its register names

bool LocalApic::matches(const ApicMessage& message) const noexcept {
    const std::uint32_t to = message.destination;
    if (to == (message.from_x2apic ? 0xffffffffU : 0xffU)) {
        return true;
    }
    if (!message.logical) {
        // In xAPIC mode software may have given the processor another ID, or several the same.
        return to == (x2apic() || id_ > 0xff ? id_ : get(kId) >> 24);
    }
    const std::uint32_t ldr = get(kLdr);
    if (x2apic()) {
        return (to >> 16) == (ldr >> 16) && (to & ldr & 0xffff) != 0;
    }
    const std::uint32_t mine = ldr >> 24;
    switch (get(kDfr) >> 28) {
        case 0xf:  // flat
            return (to & mine) != 0;
        case 0x0:  // cluster; Fh names all clusters
            return ((to >> 4) == (mine >> 4) || (to >> 4) == 0xf) && (to & mine & 0xf) != 0;
        default:
            return false;
    }
}

void ApicBus::deliver(const ApicMessage& message) noexcept {
    if (message.mode != DeliveryMode::LowestPriority) {
        for (LocalApic* apic : apics_) {
            if (apic->matches(message)) {
                apic->accept(message);
            }
        }
        return;
    }
    const auto count = static_cast<std::uint32_t>(apics_.size());
    // relaxed: any order of turns is fair enough.
    const std::uint32_t first = turn_.fetch_add(1, std::memory_order_relaxed);
    LocalApic* chosen = nullptr;
    for (std::uint32_t i = 0; i < count; ++i) {
        LocalApic* apic = apics_[(first + i) % count];
        if (apic->enabled() && apic->matches(message) &&
            (chosen == nullptr || apic->processor_priority() < chosen->processor_priority())) {
            chosen = apic;
        }
    }
    if (chosen != nullptr) {
        chosen->accept(message);
    }
}

void ApicBus::broadcast(const ApicMessage& message, const LocalApic* except) noexcept {
    for (LocalApic* apic : apics_) {
        if (apic != except) {
            apic->accept(message);
        }
    }
}

void ApicBus::deliver_msi(const bus::MsiMessage& message) noexcept {
    if ((message.address >> 20) != 0xfee) {
        return;
    }
    ApicMessage out;
    const auto address = static_cast<std::uint32_t>(message.address);
    // Bits 11:5 extend the destination to 15 bits, as KVM's guests know it
    // (KVM_FEATURE_MSI_EXT_DEST_ID).
    out.destination = ((address >> 12) & 0xff) | (((address >> 5) & 0x7f) << 8);
    out.logical = (address & 4) != 0;
    out.mode = static_cast<DeliveryMode>((message.data >> 8) & 7);
    out.level = (message.data & (1U << 15)) != 0;
    out.vector = static_cast<std::uint8_t>(message.data);
    // The redirection hint asks for the least busy one of a logical group.
    if ((address & 8) != 0 && out.logical && out.mode == DeliveryMode::Fixed) {
        out.mode = DeliveryMode::LowestPriority;
    }
    deliver(out);
}

LocalApic* ApicBus::find(std::uint32_t apic_id) const noexcept {
    for (LocalApic* apic : apics_) {
        if (apic->id() == apic_id) {
            return apic;
        }
    }
    return nullptr;
}

}  // namespace strata::engine::soft
