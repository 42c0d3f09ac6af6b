// SystemCallMender: where the handlers are, and which of them was reached. SDM 3A, 6.14.1 (gates)
// and 17.2 (DR7).
#include "engine/kvm/system_call_mender.h"

#include <cstring>

#include "arch/x86/registers.h"
#include "engine/kvm/kvm_vm.h"

namespace strata::engine::kvm {
namespace {

namespace x86 = arch::x86;

/// In the order of the debug registers that watch their handlers.
constexpr std::array<std::uint8_t, 2> kVectors = {x86::vector::kPf, x86::vector::kUd};
constexpr std::uint64_t kGateBytes = 16, kPageMask = 0xfff;
constexpr std::uint64_t kDr7Fixed = 1U << 10;

}  // namespace

/// 0 if there is no such handler in 64-bit code.
std::uint64_t SystemCallMender::handler(const kvm_sregs& sregs, std::uint8_t vector) const {
    const std::uint64_t offset = vector * kGateBytes;
    kvm_translation at = {};
    at.linear_address = sregs.idt.base + offset;
    if (offset + kGateBytes - 1 > sregs.idt.limit ||
        (at.linear_address & kPageMask) > kPageMask + 1 - kGateBytes ||
        !vcpu_.call(KVM_TRANSLATE, &at, "translating an address").ok() || at.valid == 0) {
        return 0;
    }
    const auto in_ram = vm_.ram().ram_offset(memory::GuestAddress(at.physical_address));
    if (!in_ram) {
        return 0;
    }
    std::array<std::uint64_t, 2> gate{};
    std::memcpy(gate.data(), vm_.ram().base() + *in_ram, kGateBytes);  // the page is RAM as a whole
    const std::uint64_t type = gate[0] >> 40 & 0x1f;
    const bool present = (gate[0] >> 47 & 1) != 0;
    const bool leads_to_code = type == 14 || type == 15;
    return present && leads_to_code
               ? (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000U) | gate[1] << 32
               : 0;
}

Result<> SystemCallMender::watch() {
    kvm_sregs sregs = {};
    STRATA_TRY_VOID(vcpu_.call(KVM_GET_SREGS, &sregs, "reading system registers"));
    const bool long_mode =
        (sregs.efer & x86::efer::kLma) != 0;  // only its user mode runs on the processor
    std::array<std::uint64_t, 2> wanted{};
    for (std::size_t i = 0; long_mode && i < kVectors.size(); ++i) {
        wanted[i] = handler(sregs, kVectors[i]);
    }
    if (wanted == watched_) {
        return ok();
    }
    kvm_guest_debug debug = {};
    std::uint64_t enabled = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        debug.arch.debugreg[i] = wanted[i];
        enabled |= wanted[i] != 0 ? 1ULL << (2 * i) : 0;  // an instruction breakpoint
    }
    if (enabled != 0) {
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[7] = enabled | kDr7Fixed;
    }
    STRATA_TRY_VOID(vcpu_.call(KVM_SET_GUEST_DEBUG, &debug, "setting breakpoints"));
    watched_ = wanted;
    return ok();
}

std::optional<VcpuExit> SystemCallMender::stopped(const kvm_run& run) {
    for (std::size_t i = 0; i < watched_.size(); ++i) {
        if (watched_[i] != 0 && run.debug.arch.pc == watched_[i]) {
            return helper_.execute_at_handler(kVectors[i]);
        }
    }
    return VcpuExit{ExitReason::InternalError, "KVM stopped at a breakpoint that nobody set"};
}

}  // namespace strata::engine::kvm
