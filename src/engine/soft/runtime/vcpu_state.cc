// VcpuState: SoftVcpu to and from ArchState.
#include <algorithm>
#include <cstring>

#include <fmt/core.h>

#include "arch/x86/registers.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/arch_registers.h"
#include "engine/soft/runtime/soft_vcpu.h"
#include "engine/soft/runtime/soft_vm_impl.h"
#include "engine/soft/runtime/tsc_clock.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

bool canonical(std::uint64_t address) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}

// What no instruction could have brought about, and what the engine's own code relies on.
Result<> check_state(const x86::ArchState& state) {
    const auto refuse = [](std::string_view what) {
        return Error(ErrorKind::InvalidArgument, fmt::format("vCPU state: {}", what));
    };
    const bool paging = (state.cr0 & x86::cr0::kPg) != 0;
    if (paging && (state.cr0 & x86::cr0::kPe) == 0) {
        return refuse("paging without protection");
    }
    const bool lma = (state.efer & x86::efer::kLma) != 0;
    if (lma != (paging && (state.efer & x86::efer::kLme) != 0) ||
        (lma && (state.cr4 & x86::cr4::kPae) == 0)) {
        return refuse("EFER.LMA does not fit CR0, CR4 and EFER.LME");
    }
    if ((state.xcr0 & 1) == 0 || (state.xcr0 & ~(host_vector_mask() | kXcr0Pkru)) != 0) {
        return Error(ErrorKind::NotSupported,
                     fmt::format("vCPU state: XCR0 {:#x} is not offered on this host", state.xcr0));
    }
    for (const x86::Segment& segment : state.segments) {
        if (!canonical(segment.base)) {
            return refuse("a segment base is not canonical");
        }
    }
    if (lma && (state.cr4 & x86::cr4::kLa57) != 0) {
        return Error(ErrorKind::NotSupported, "vCPU state: 5-level paging");
    }
    if (state.cr8 > 15) {
        return refuse("CR8 has four bits");
    }
    return ok();
}

}  // namespace

Result<> SoftVcpu::get_state(x86::ArchState& state) {
    CpuState& cpu = *cpu_;
    save_vector_state(cpu);
    state = {};
    const std::uint64_t tsc = host_tsc() + cpu.tsc_offset;
    apic_.save(std::span(state.lapic));  // first: it brings CR8 up to date
    copy_registers(cpu, state);
    put_pkru(std::span(state.xsave), pkru_offset(config_.cpuid), cpu.pkru);
    state.tsc = tsc;
    state.apic_base = apic_.base();
    state.msrs = msrs_.save();
    const std::uint32_t bits = cpu.request.load(std::memory_order_acquire);
    state.events.exception_pending = cpu.exception.pending;
    if (cpu.exception.pending) {
        state.events.exception_vector = cpu.exception.vector;
        state.events.exception_has_error = cpu.exception.has_error;
        state.events.exception_error = cpu.exception.error;
        if (cpu.exception.vector == x86::vector::kPf) {
            state.cr2 = cpu.exception.fault_address;
        }
    }
    const std::uint32_t arrived =
        (bits & Request::kNmi) != 0 ? nmis_arrived_.load(std::memory_order_relaxed) : 0;
    state.events.nmis_pending =
        static_cast<std::uint8_t>(std::min(2U, nmis_pending_ + std::min(arrived, 2U)));
    state.events.nmi_masked = cpu.nmi_masked;
    state.events.interrupt_shadow = cpu.interrupt_shadow;
    state.events.interrupt_pending = acknowledged_.has_value();
    state.events.interrupt_vector = acknowledged_.value_or(0);
    state.run_state =
        activity_ == x86::RunState::Running && cpu.halted ? x86::RunState::Halted : activity_;
    return ok();
}

Result<> SoftVcpu::set_state(const x86::ArchState& state) {
    STRATA_TRY_VOID(check_state(state));
    CpuState& cpu = *cpu_;
    cpu.vector_live = 0;
    copy_registers(state, cpu);
    sanitize_xsave(std::span(cpu.xsave));
    cpu.pkru = pkru_in(std::span(state.xsave), pkru_offset(config_.cpuid));
    cpu.tsc_offset = vm_.tsc_offset_for(state.tsc);
    cpu.halted = state.run_state == x86::RunState::Halted;
    activity_ = cpu.halted ? x86::RunState::Running : state.run_state;
    cpu.interrupt_shadow = state.events.interrupt_shadow;
    cpu.nmi_masked = state.events.nmi_masked;
    cpu.interrupt_window = 0;
    cpu.exception = {};
    cpu.exception.pending = state.events.exception_pending;
    cpu.exception.vector = state.events.exception_vector & 31;
    cpu.exception.has_error = state.events.exception_has_error;
    cpu.exception.error = state.events.exception_error;
    cpu.exception.fault_address = state.cr2;
    cpu.request.fetch_and(~(Request::kNmi | Request::kInit | Request::kSipi | Request::kTimer),
                          std::memory_order_acq_rel);
    nmis_arrived_.store(0, std::memory_order_relaxed);
    nmis_pending_ = std::min<std::uint32_t>(state.events.nmis_pending, 2);
    acknowledged_.reset();
    if (state.events.interrupt_pending) {
        acknowledged_ = state.events.interrupt_vector;
    }
    unhalted_.store(false, std::memory_order_relaxed);

    apic_.load(std::span(state.lapic), state.apic_base);
    mmu_->apic_page = apic_.mmio_page();
    mmu_->rewrite_pending = false;
    cpu.cr8 = state.cr8;
    update_mode(cpu);
    flush_tlb_all(cpu);

    paravirt_.reset();
    paravirt_.set_restoring(true);
    const Result<> loaded = msrs_.load(state.msrs);
    paravirt_.set_restoring(false);
    STRATA_TRY_VOID(loaded);
    const auto deadline =
        std::find_if(state.msrs.begin(), state.msrs.end(),
                     [](const x86::Msr& msr) { return msr.index == x86::msr::kTscDeadline; });
    apic_.restart_timer(deadline != state.msrs.end() ? deadline->value : 0);
    return ok();
}

}  // namespace strata::engine::soft
