// VcpuState: reading and writing everything KVM keeps about a vCPU. Linux
// Documentation/virt/kvm/api.rst, arch/x86/include/uapi/asm/kvm.h.
#include "engine/kvm/vcpu_state.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>

#include <fmt/format.h>

#include "arch/x86/registers.h"

namespace strata::engine::kvm {
namespace {

using arch::x86::ArchState;
using arch::x86::RunState;
using arch::x86::Segment;
namespace msr = arch::x86::msr;

/// kvm_regs fields in ModRM order.
constexpr std::array kGprs = {&kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx,
                              &kvm_regs::rsp, &kvm_regs::rbp, &kvm_regs::rsi, &kvm_regs::rdi,
                              &kvm_regs::r8,  &kvm_regs::r9,  &kvm_regs::r10, &kvm_regs::r11,
                              &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15};
/// kvm_sregs fields in ModRM order.
constexpr std::array kSegments = {&kvm_sregs::es, &kvm_sregs::cs, &kvm_sregs::ss,
                                  &kvm_sregs::ds, &kvm_sregs::fs, &kvm_sregs::gs};

Segment from_kvm(const kvm_segment& in) {
    Segment out;
    out.selector = in.selector;
    out.base = in.base;
    out.limit = in.limit;
    out.attributes = static_cast<std::uint16_t>(
        (in.type & 15) | (in.s & 1) << 4 | (in.dpl & 3) << 5 | (in.present & 1) << 7 |
        (in.avl & 1) << 12 | (in.l & 1) << 13 | (in.db & 1) << 14 | (in.g & 1) << 15);
    out.unusable = in.unusable != 0;
    return out;
}

kvm_segment to_kvm(const Segment& in) {
    kvm_segment out = {};
    const auto bit = [&](unsigned number) {
        return static_cast<__u8>((in.attributes >> number) & 1);
    };
    out.selector = in.selector;
    out.base = in.base;
    out.limit = in.limit;
    out.type = in.attributes & 15;
    out.s = bit(4);
    out.dpl = static_cast<__u8>((in.attributes >> 5) & 3);
    out.present = bit(7);
    out.avl = bit(12);
    out.l = bit(13);
    out.db = bit(14);
    out.g = bit(15);
    out.unusable = in.unusable ? 1 : 0;
    return out;
}

Result<> read_registers(const KvmFd& vcpu, ArchState& state) {
    kvm_regs regs = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_REGS, &regs, "reading registers"));
    for (std::size_t i = 0; i < kGprs.size(); ++i) {
        state.gpr[i] = regs.*kGprs[i];
    }
    state.rip = regs.rip;
    state.rflags = regs.rflags;
    kvm_sregs sregs = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_SREGS, &sregs, "reading system registers"));
    for (std::size_t i = 0; i < kSegments.size(); ++i) {
        state.segments[i] = from_kvm(sregs.*kSegments[i]);
    }
    state.ldtr = from_kvm(sregs.ldt);
    state.tr = from_kvm(sregs.tr);
    state.gdtr = {sregs.gdt.base, sregs.gdt.limit};
    state.idtr = {sregs.idt.base, sregs.idt.limit};
    state.cr0 = sregs.cr0;
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = sregs.cr4;
    state.cr8 = sregs.cr8;
    state.efer = sregs.efer;
    state.apic_base = sregs.apic_base;
    return ok();
}

Result<> write_system_registers(const KvmFd& vcpu, const ArchState& state) {
    kvm_sregs sregs = {};
    for (std::size_t i = 0; i < kSegments.size(); ++i) {
        sregs.*kSegments[i] = to_kvm(state.segments[i]);
    }
    sregs.ldt = to_kvm(state.ldtr);
    sregs.tr = to_kvm(state.tr);
    sregs.gdt.base = state.gdtr.base;
    sregs.gdt.limit = state.gdtr.limit;
    sregs.idt.base = state.idtr.base;
    sregs.idt.limit = state.idtr.limit;
    sregs.cr0 = state.cr0;
    sregs.cr2 = state.cr2;
    sregs.cr3 = state.cr3;
    sregs.cr4 = state.cr4;
    sregs.cr8 = state.cr8;
    sregs.efer = state.efer;
    sregs.apic_base = state.apic_base;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_SREGS, &sregs, "setting system registers"));
    return ok();
}

Result<> write_registers(const KvmFd& vcpu, const ArchState& state) {
    kvm_regs regs = {};
    for (std::size_t i = 0; i < kGprs.size(); ++i) {
        regs.*kGprs[i] = state.gpr[i];
    }
    regs.rip = state.rip;
    regs.rflags = state.rflags;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_REGS, &regs, "setting registers"));
    return ok();
}

Result<> read_vector(const KvmFd& vcpu, ArchState& state) {
    kvm_xsave image = {};
    static_assert(sizeof(image.region) == arch::x86::kXsaveBytes);
    STRATA_TRY_VOID(vcpu.call(KVM_GET_XSAVE, &image, "reading the vector state"));
    std::memcpy(state.xsave.data(), image.region, sizeof(image.region));
    kvm_xcrs xcrs = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_XCRS, &xcrs, "reading XCR0"));
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(xcrs.nr_xcrs, KVM_MAX_XCRS); ++i) {
        if (xcrs.xcrs[i].xcr == 0) {
            state.xcr0 = xcrs.xcrs[i].value;
        }
    }
    return ok();
}

Result<> write_vector(const KvmFd& vcpu, const ArchState& state) {
    kvm_xcrs xcrs = {};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = state.xcr0;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_XCRS, &xcrs, "setting XCR0"));
    kvm_xsave image = {};
    std::memcpy(image.region, state.xsave.data(), sizeof(image.region));
    STRATA_TRY_VOID(vcpu.call(KVM_SET_XSAVE, &image, "setting the vector state"));
    return ok();
}

Result<> read_debug(const KvmFd& vcpu, ArchState& state) {
    kvm_debugregs debug = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_DEBUGREGS, &debug, "reading debug registers"));
    std::copy(std::begin(debug.db), std::end(debug.db), state.dr.begin());
    state.dr6 = debug.dr6;
    state.dr7 = debug.dr7;
    return ok();
}

Result<> write_debug(const KvmFd& vcpu, const ArchState& state) {
    kvm_debugregs debug = {};
    std::copy(state.dr.begin(), state.dr.end(), std::begin(debug.db));
    debug.dr6 = state.dr6;
    debug.dr7 = state.dr7;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_DEBUGREGS, &debug, "setting debug registers"));
    return ok();
}

Result<> read_events(const KvmFd& vcpu, ArchState& state) {
    kvm_vcpu_events events = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_VCPU_EVENTS, &events, "reading pending events"));
    state.events.exception_pending =
        events.exception.injected != 0 || events.exception.pending != 0;
    state.events.exception_vector = state.events.exception_pending ? events.exception.nr : 0;
    state.events.exception_has_error =
        state.events.exception_pending && events.exception.has_error_code != 0;
    state.events.exception_error =
        state.events.exception_has_error ? events.exception.error_code : 0;
    state.events.nmis_pending = static_cast<std::uint8_t>(
        std::min(2, events.nmi.pending + events.nmi.injected));  // a count since Linux 6.4
    state.events.nmi_masked = events.nmi.masked != 0;
    state.events.interrupt_shadow = events.interrupt.shadow != 0;
    state.events.interrupt_pending = events.interrupt.injected != 0 && events.interrupt.soft == 0;
    state.events.interrupt_vector = state.events.interrupt_pending ? events.interrupt.nr : 0;
    return ok();
}

Result<> write_events(const KvmFd& vcpu, const ArchState& state) {
    kvm_vcpu_events events = {};
    events.exception.injected = state.events.exception_pending ? 1 : 0;
    events.exception.nr = state.events.exception_vector;
    events.exception.has_error_code = state.events.exception_has_error ? 1 : 0;
    events.exception.error_code = state.events.exception_error;
    events.nmi.pending = state.events.nmis_pending;
    events.nmi.masked = state.events.nmi_masked ? 1 : 0;
    events.interrupt.injected = state.events.interrupt_pending ? 1 : 0;
    events.interrupt.nr = state.events.interrupt_vector;
    events.interrupt.shadow = state.events.interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_VCPU_EVENTS, &events, "setting pending events"));
    return ok();
}

/// What an instruction can change of the pending events. The rest is KVM's own and may move
/// meanwhile (an NMI from another thread): it goes back as it is, the count of NMIs not at all.
Result<> write_event_changes(const KvmFd& vcpu, const ArchState& after) {
    kvm_vcpu_events events = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_VCPU_EVENTS, &events, "reading pending events"));
    events.exception = {};
    events.nmi.masked = after.events.nmi_masked ? 1 : 0;
    events.interrupt.shadow = after.events.interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
    events.flags = KVM_VCPUEVENT_VALID_SHADOW;
    STRATA_TRY_VOID(vcpu.call(KVM_SET_VCPU_EVENTS, &events, "setting pending events"));
    return ok();
}

Result<> read_msrs(const KvmFd& vcpu, const std::vector<std::uint32_t>& wanted, ArchState& state) {
    state.tsc = STRATA_TRY(read_msr(vcpu, msr::kTsc));
    state.msrs.clear();
    std::size_t next = 0;
    while (next < wanted.size()) {
        const std::size_t count = std::min<std::size_t>(wanted.size() - next, 128);
        WithTail<kvm_msrs, kvm_msr_entry> batch(count);
        batch.head()->nmsrs = static_cast<std::uint32_t>(count);
        for (std::size_t i = 0; i < count; ++i) {
            batch.items()[i].index = wanted[next + i];
        }
        const int done = STRATA_TRY(vcpu.call(KVM_GET_MSRS, batch.head(), "reading MSRs"));
        for (std::size_t i = 0; i < std::min<std::size_t>(static_cast<std::size_t>(done), count);
             ++i) {
            if (batch.items()[i].data != 0) {
                state.msrs.push_back({batch.items()[i].index, batch.items()[i].data});
            }
        }
        // KVM stops at an MSR that this vCPU's CPUID does not have: such a one is not state.
        next += static_cast<std::size_t>(done) + (static_cast<std::size_t>(done) < count ? 1 : 0);
    }
    return ok();
}

Result<> write_msrs(const KvmFd& vcpu, const ArchState& state) {
    STRATA_TRY_VOID(write_msr(vcpu, msr::kTsc, state.tsc));
    const arch::x86::Msr* deadline = nullptr;
    for (const arch::x86::Msr& entry : state.msrs) {
        if (entry.index == msr::kTscDeadline) {
            deadline = &entry;  // last: it counts from the TSC and needs the timer's mode
        } else {
            STRATA_TRY_VOID(write_msr(vcpu, entry.index, entry.value));
        }
    }
    return deadline == nullptr ? ok() : write_msr(vcpu, deadline->index, deadline->value);
}

/// KVM's numbers, indexed by RunState.
constexpr std::uint32_t kMpStates[] = {KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_INIT_RECEIVED,
                                       KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED};

Result<> read_run_state(const KvmFd& vcpu, ArchState& state) {
    kvm_mp_state mp = {};
    STRATA_TRY_VOID(vcpu.call(KVM_GET_MP_STATE, &mp, "reading the run state"));
    const auto* found = std::ranges::find(kMpStates, mp.mp_state);
    state.run_state = found == std::end(kMpStates)
                          ? RunState::Running
                          : static_cast<RunState>(found - std::begin(kMpStates));
    kvm_lapic_state lapic = {};
    static_assert(sizeof(lapic.regs) == arch::x86::kLapicBytes);
    STRATA_TRY_VOID(vcpu.call(KVM_GET_LAPIC, &lapic, "reading the local APIC"));
    std::memcpy(state.lapic.data(), lapic.regs, sizeof(lapic.regs));
    return ok();
}

Result<> write_lapic(const KvmFd& vcpu, const ArchState& state) {
    kvm_lapic_state lapic = {};
    std::memcpy(lapic.regs, state.lapic.data(), sizeof(lapic.regs));
    STRATA_TRY_VOID(vcpu.call(KVM_SET_LAPIC, &lapic, "setting the local APIC"));
    return ok();
}

Result<> write_run_state(const KvmFd& vcpu, const ArchState& state) {
    kvm_mp_state mp = {};
    mp.mp_state = kMpStates[static_cast<std::size_t>(state.run_state)];
    STRATA_TRY_VOID(vcpu.call(KVM_SET_MP_STATE, &mp, "setting the run state"));
    return ok();
}

}  // namespace

Result<std::uint64_t> read_msr(const KvmFd& vcpu, std::uint32_t index) {
    WithTail<kvm_msrs, kvm_msr_entry> one(1);
    one.head()->nmsrs = 1;
    one.items()[0].index = index;
    const int done = STRATA_TRY(vcpu.call(KVM_GET_MSRS, one.head(), "reading an MSR"));
    if (done != 1) {
        return Error(ErrorKind::NotSupported, fmt::format("KVM does not know MSR {:#x}", index));
    }
    return std::uint64_t{one.items()[0].data};
}

Result<> write_msr(const KvmFd& vcpu, std::uint32_t index, std::uint64_t value) {
    WithTail<kvm_msrs, kvm_msr_entry> one(1);
    one.head()->nmsrs = 1;
    one.items()[0].index = index;
    one.items()[0].data = value;
    const int done = STRATA_TRY(vcpu.call(KVM_SET_MSRS, one.head(), "setting an MSR"));
    if (done != 1) {
        return Error(ErrorKind::NotSupported,
                     fmt::format("KVM does not take {:#x} for MSR {:#x}", value, index));
    }
    return ok();
}

Result<> read_state(const KvmFd& vcpu, StateScope scope, const std::vector<std::uint32_t>& msrs,
                    ArchState& state) {
    if (scope == StateScope::Whole) {
        STRATA_TRY_VOID(
            read_run_state(vcpu, state));  // first: the kernel acts on a pending INIT or SIPI here
    }
    STRATA_TRY_VOID(read_registers(vcpu, state));
    STRATA_TRY_VOID(read_vector(vcpu, state));
    STRATA_TRY_VOID(read_debug(vcpu, state));
    STRATA_TRY_VOID(read_events(vcpu, state));
    return scope == StateScope::Whole ? read_msrs(vcpu, msrs, state) : ok();
}

Result<> write_core_changes(const KvmFd& vcpu, const ArchState& before, const ArchState& after) {
    const auto system = [](const ArchState& s) {
        return std::tie(s.segments, s.ldtr, s.tr, s.gdtr, s.idtr, s.cr0, s.cr2, s.cr3, s.cr4, s.cr8,
                        s.efer);
    };
    if (system(before) != system(after)) {
        STRATA_TRY_VOID(write_system_registers(vcpu, after));
    }
    if (before.xsave != after.xsave || before.xcr0 != after.xcr0) {
        STRATA_TRY_VOID(write_vector(vcpu, after));
    }
    if (before.dr != after.dr || before.dr6 != after.dr6 || before.dr7 != after.dr7) {
        STRATA_TRY_VOID(write_debug(vcpu, after));
    }
    if (before.events != after.events) {
        STRATA_TRY_VOID(write_event_changes(vcpu, after));
    }
    return write_registers(vcpu, after);
}

Result<> write_state(const KvmFd& vcpu, StateScope scope, const ArchState& state) {
    STRATA_TRY_VOID(write_system_registers(vcpu, state));
    STRATA_TRY_VOID(write_vector(vcpu, state));
    if (scope == StateScope::Whole) {
        STRATA_TRY_VOID(write_lapic(vcpu, state));
        STRATA_TRY_VOID(write_msrs(vcpu, state));
    }
    STRATA_TRY_VOID(write_registers(vcpu, state));
    STRATA_TRY_VOID(write_debug(vcpu, state));
    STRATA_TRY_VOID(write_events(vcpu, state));
    return scope == StateScope::Whole ? write_run_state(vcpu, state) : ok();
}

}  // namespace strata::engine::kvm
