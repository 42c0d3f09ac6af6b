// Hypercalls: the calls of KVM guests to their hypervisor. Linux
// Documentation/virt/kvm/x86/hypercalls.rst.
#include <sched.h>

#include "engine/soft/runtime/soft_vm_impl.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kVapicPollIrq = 1, kKickCpu = 5, kSendIpi = 10, kSchedYield = 11;
constexpr std::uint64_t kNoSuchCall = static_cast<std::uint64_t>(-1000),
                        kNotPermitted = static_cast<std::uint64_t>(-1);

}  // namespace

// Bits of `low` and `high` name APIC IDs from `first` on; 128 of them in 64-bit mode, else 64.
std::uint64_t SoftVmImpl::send_ipi(std::uint64_t low, std::uint64_t high, std::uint64_t first,
                                   std::uint64_t icr, bool wide) noexcept {
    ApicMessage message;
    message.mode = static_cast<DeliveryMode>((icr >> 8) & 7);
    message.vector = static_cast<std::uint8_t>(icr);
    if (message.mode != DeliveryMode::Fixed && message.mode != DeliveryMode::Nmi) {
        return static_cast<std::uint64_t>(-22);  // KVM_EINVAL
    }
    const std::uint32_t word_bits = wide ? 64 : 32;
    std::uint64_t sent = 0;
    for (const std::uint64_t bitmap : {low, high}) {
        for (std::uint64_t left = bitmap; left != 0; left &= left - 1) {
            const std::uint64_t id = first + static_cast<std::uint64_t>(__builtin_ctzll(left));
            LocalApic* apic =
                id <= 0xffffffffU ? apic_bus_.find(static_cast<std::uint32_t>(id)) : nullptr;
            if (apic != nullptr) {
                apic->accept(message);
                ++sent;
            }
        }
        first += word_bits;
    }
    return sent;
}

std::uint64_t SoftVmImpl::hypercall(CpuState& cpu, std::uint64_t number, std::uint64_t a0,
                                    std::uint64_t a1, std::uint64_t a2, std::uint64_t a3) noexcept {
    save_vector_state(cpu);
    if (cpu.cpl != 0) {
        return kNotPermitted;
    }
    const bool wide = (cpu.mode & ModeBits::kCs64) != 0;
    if (!wide) {
        for (std::uint64_t* value : {&number, &a0, &a1, &a2, &a3}) {
            *value &= 0xffffffffU;
        }
    }
    switch (number) {
        case kVapicPollIrq:
            return 0;
        case kKickCpu:
            for (const auto& other : vcpus_) {
                if (other->apic().id() == a1) {
                    other->unhalt();
                }
            }
            return 0;
        case kSendIpi:
            return send_ipi(a0, a1, a2, a3, wide);
        case kSchedYield:
            (void)sched_yield();  // cannot fail on Linux
            return 0;
        default:
            return kNoSuchCall;
    }
}

}  // namespace strata::engine::soft
