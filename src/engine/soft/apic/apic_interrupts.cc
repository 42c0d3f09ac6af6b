// LocalApic: sending, accepting, choosing and ending interrupts. SDM 3A, 11.6 and 11.8.
#include <bit>

#include "engine/soft/apic/apic_registers.h"
#include "engine/soft/apic/local_apic.h"

namespace strata::engine::soft {

using namespace apic;  // NOLINT(google-build-using-namespace): its register names

void LocalApic::send_ipi(std::uint32_t low, std::uint32_t destination) noexcept {
    ApicMessage message;
    message.destination = destination;
    message.logical = (low & (1U << 11)) != 0;
    message.from_x2apic = x2apic();
    message.mode = static_cast<DeliveryMode>((low >> 8) & 7);
    message.vector = static_cast<std::uint8_t>(low);
    const bool fixed =
        message.mode == DeliveryMode::Fixed || message.mode == DeliveryMode::LowestPriority;
    if (fixed && message.vector < 16) {
        raise_error(kErrorSendIllegal);
        return;
    }
    // INIT level de-assert only re-synchronised arbitration IDs of old processors.
    if (message.mode == DeliveryMode::Init && (low & (1U << 15)) != 0 && (low & (1U << 14)) == 0) {
        return;
    }
    switch ((low >> 18) & 3) {
        case 0:
            bus_.deliver(message);
            break;
        case 1:
            accept(message);
            break;
        case 2:
            bus_.broadcast(message, nullptr);
            break;
        default:
            bus_.broadcast(message, this);
            break;
    }
}

void LocalApic::accept(const ApicMessage& message) noexcept {
    switch (message.mode) {
        case DeliveryMode::Fixed:
        case DeliveryMode::LowestPriority:
            if (!enabled()) {
                return;
            }
            if (message.vector < 16) {
                raise_error(kErrorReceiveIllegal);
                return;
            }
            request_interrupt(message.vector, message.level);
            return;
        case DeliveryMode::Nmi:
            host_.kick(cpu_, Request::kNmi);
            return;
        case DeliveryMode::Init:
            host_.kick(cpu_, Request::kInit);
            return;
        case DeliveryMode::Sipi:
            // release pairs with sipi_vector(): the vector is there when the request bit is seen.
            sipi_.store(message.vector, std::memory_order_release);
            host_.kick(cpu_, Request::kSipi);
            return;
        case DeliveryMode::ExtInt:
            host_.kick(cpu_, Request::kInterrupt);
            return;
        case DeliveryMode::Smi:
            return;  // no system management mode
    }
}

void LocalApic::request_interrupt(std::uint8_t vector, bool level) noexcept {
    const std::uint32_t word = vector / 32;
    const std::uint32_t bit = 1U << (vector % 32);
    if (level) {
        registers_[kTmr + word].fetch_or(bit, std::memory_order_relaxed);
    } else {
        registers_[kTmr + word].fetch_and(~bit, std::memory_order_relaxed);
    }
    // release: TMR is right when the owner sees the IRR bit.
    registers_[kIrr + word].fetch_or(bit, std::memory_order_release);
    host_.kick(cpu_, Request::kInterrupt);
}

int LocalApic::highest(std::uint32_t first_register) const noexcept {
    for (int word = 7; word >= 0; --word) {
        const std::uint32_t bits =
            registers_[first_register + word].load(std::memory_order_acquire);
        if (bits != 0) {
            return word * 32 + 31 - std::countl_zero(bits);
        }
    }
    return -1;
}

void LocalApic::sync_task_priority() noexcept {
    if (cpu_.cr8 != seen_cr8_) {
        seen_cr8_ = cpu_.cr8;
        set(kTpr, static_cast<std::uint32_t>(cpu_.cr8 & 15) << 4);
    }
}

// SDM 3A, 11.8.3.1.
std::uint32_t LocalApic::update_priority() noexcept {
    const std::uint32_t tpr = get(kTpr);
    const int in_service = highest(kIsr);
    const std::uint32_t isrv = in_service < 0 ? 0 : static_cast<std::uint32_t>(in_service);
    const std::uint32_t ppr = (tpr & 0xf0) >= (isrv & 0xf0) ? tpr : isrv & 0xf0;
    ppr_.store(ppr, std::memory_order_relaxed);
    set(kPpr, ppr);
    return ppr;
}

std::optional<std::uint8_t> LocalApic::pending_vector() noexcept {
    if (!enabled()) {
        return std::nullopt;
    }
    sync_pv_eoi();
    sync_task_priority();
    const int requested = highest(kIrr);
    if (requested < 0 ||
        (static_cast<std::uint32_t>(requested) & 0xf0) <= (update_priority() & 0xf0)) {
        return std::nullopt;
    }
    return static_cast<std::uint8_t>(requested);
}

bool LocalApic::blocked_by_priority() noexcept {
    if (!enabled()) {
        return false;
    }
    const int requested = highest(kIrr);
    if (requested < 0) {
        return false;
    }
    // Only what a change of CR8 could release counts; an EOI asks again by itself.
    const int in_service = highest(kIsr);
    return (requested & 0xf0) > (in_service < 0 ? 0 : in_service & 0xf0);
}

void LocalApic::acknowledge(std::uint8_t vector) noexcept {
    const std::uint32_t word = vector / 32;
    const std::uint32_t bit = 1U << (vector % 32);
    registers_[kIrr + word].fetch_and(~bit, std::memory_order_acq_rel);
    set(kIsr + word, get(kIsr + word) | bit);
    update_priority();
    const bool level = (get(kTmr + word) & bit) != 0;
    if (pv_eoi_flag_ != nullptr && !level && highest(kIrr) < 0) {
        pv_eoi_flag_->store(1, std::memory_order_seq_cst);
        pv_eoi_set_ = true;
    }
}

// Has the guest ended its interrupt by clearing the flag? If not, take the flag back: something
// else needs the real EOI.
void LocalApic::sync_pv_eoi() noexcept {
    if (!pv_eoi_set_) {
        return;
    }
    pv_eoi_set_ = false;
    if (pv_eoi_flag_ != nullptr && pv_eoi_flag_->exchange(0, std::memory_order_seq_cst) == 0) {
        end_of_interrupt();
    }
}

void LocalApic::end_of_interrupt() noexcept {
    pv_eoi_set_ = false;
    const int vector = highest(kIsr);
    if (vector < 0) {
        return;
    }
    const std::uint32_t word = static_cast<std::uint32_t>(vector) / 32;
    const std::uint32_t bit = 1U << (vector % 32);
    set(kIsr + word, get(kIsr + word) & ~bit);
    update_priority();
    if ((get(kTmr + word) & bit) != 0) {
        host_.end_of_interrupt(static_cast<std::uint8_t>(vector));
    }
    if (highest(kIrr) >= 0) {
        host_.kick(cpu_, Request::kInterrupt);
    }
}

void LocalApic::raise_error(std::uint32_t bit) noexcept {
    pending_errors_.fetch_or(bit, std::memory_order_relaxed);
    fire_lvt(kLvtError);
}

void LocalApic::fire_lvt(std::uint32_t reg) noexcept {
    const std::uint32_t lvt = get(reg);
    if ((lvt & kLvtMasked) != 0 || !enabled()) {
        return;
    }
    ApicMessage message;
    message.mode = reg == kLvtTimer || reg == kLvtError ? DeliveryMode::Fixed
                                                        : static_cast<DeliveryMode>((lvt >> 8) & 7);
    message.vector = static_cast<std::uint8_t>(lvt);
    if (message.mode == DeliveryMode::Fixed && message.vector < 16) {
        // An illegal vector in the error entry itself must not raise errors for ever.
        pending_errors_.fetch_or(kErrorReceiveIllegal, std::memory_order_relaxed);
        return;
    }
    accept(message);
}

bool LocalApic::accepts_external() const noexcept {
    if (!bootstrap_) {
        return false;
    }
    const std::uint32_t lint0 = get(kLvtLint0);
    return !globally_enabled() ||
           ((lint0 & kLvtMasked) == 0 &&
            ((lint0 >> 8) & 7) == static_cast<std::uint32_t>(DeliveryMode::ExtInt));
}

bool LocalApic::set_pv_eoi(std::uint64_t value) noexcept {
    sync_pv_eoi();
    if ((value & 2) != 0) {
        return false;
    }
    std::atomic<std::uint8_t>* flag = nullptr;
    if ((value & 1) != 0) {
        const auto offset = ram_.ram_offset(memory::GuestAddress(value & ~3ULL));
        if (!offset) {
            return false;  // the write faults: what was set before holds
        }
        // SAFETY: the byte lies in RAM, which outlives the APIC; guest and host only use
        // single-byte atomics on it.
        flag = reinterpret_cast<std::atomic<std::uint8_t>*>(ram_.base() + *offset);
    }
    pv_eoi_flag_ = flag;
    pv_eoi_ = value;
    return true;
}

}  // namespace strata::engine::soft
