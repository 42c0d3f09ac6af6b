// SoftVcpu: the run loop.
#include "engine/soft/runtime/soft_vcpu.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arch/x86/registers.h"
#include "engine/soft/direct/direct_events.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/soft_vm_impl.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

// SAFETY: futexes want a plain 32-bit word; a lock-free atomic of that size is one.
static_assert(sizeof(std::atomic<std::uint32_t>) == 4 &&
              std::atomic<std::uint32_t>::is_always_lock_free);

// Sleeps while *word == value, at most until `deadline` (CLOCK_MONOTONIC nanoseconds).
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t value, std::uint64_t deadline) {
    timespec until{};
    const bool timed = deadline != kNoDeadline;
    if (timed) {
        until.tv_sec = static_cast<time_t>(deadline / 1'000'000'000U);
        until.tv_nsec = static_cast<long>(deadline % 1'000'000'000U);
    }
    // Any reason to return is fine: the caller looks at the word and the clock.
    (void)syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, value, timed ? &until : nullptr,
                  nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(std::atomic<std::uint32_t>& word) {
    (void)syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

std::uint32_t physical_bits(const x86::CpuidTable& cpuid) {
    return cpuid.find(0x80000008, 0).eax & 0xff;
}
bool gigabyte_pages(const x86::CpuidTable& cpuid) {
    return (cpuid.find(0x80000001, 0).edx & (1U << 26)) != 0;
}

}  // namespace

SoftVcpu::SoftVcpu(SoftVmImpl& vm, const VcpuConfig& config)
    : vm_(vm),
      config_(config),
      cpu_(std::make_unique<CpuState>()),
      mmu_(make_mmu_state(physical_bits(config.cpuid), gigabyte_pages(config.cpuid))),
      apic_(vm.apic_bus(), vm, *cpu_, *vm.ram, config.apic_id, config.bootstrap),
      paravirt_(*vm.ram, vm.clock(), apic_, *cpu_),
      msrs_(*cpu_, *this, config_.cpuid),
      activity_(x86::RunState::Running) {
    cpu_->vm = &vm;
    cpu_->mmu = mmu_.get();
    const Result<> done = set_state(x86::ArchState::power_on(config.apic_id, config.bootstrap));
    STRATA_CHECK(done.ok(), "the power-on state is a good one");
}

SoftVcpu::~SoftVcpu() = default;

void SoftVcpu::kick(std::uint32_t bits) noexcept {
    if ((bits & Request::kNmi) != 0) {
        nmis_arrived_.fetch_add(1, std::memory_order_relaxed);  // ordered by the bit
    }
    // seq_cst with sleep(): either the sleeper sees the bits, or we see that it sleeps.
    cpu_->request.fetch_or(bits, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst)) {
        futex_wake(cpu_->request);
    } else if (executor_ != nullptr) {
        executor_->kick();
    }
}

void SoftVcpu::unhalt() noexcept {
    unhalted_.store(true, std::memory_order_seq_cst);
    kick(Request::kInterrupt);
}

bool SoftVcpu::write_apic_base(std::uint64_t value) noexcept {
    const bool x2apic = (config_.cpuid.find(1, 0).ecx & (1U << 21)) != 0;
    if (!apic_.set_base(value, x2apic, mmu_->physical_bits)) {
        return false;
    }
    if (mmu_->apic_page != apic_.mmio_page()) {
        mmu_->apic_page = apic_.mmio_page();
        flush_tlb_all(*cpu_);
    }
    return true;
}

void SoftVcpu::tsc_moved() noexcept {
    paravirt_.refresh_clock(true);
    if (const std::uint64_t deadline = apic_.tsc_deadline(); deadline != 0) {
        apic_.set_tsc_deadline(deadline);
    }
}

void SoftVcpu::prepare_thread() {
    (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);  // only makes wake-ups more punctual
    vm_.timers().start();
    paravirt_.follow_this_thread();
    if (executor_ != nullptr) {
        executor_->prepare_thread(*cpu_);
    }
    prepared_ = std::this_thread::get_id();
}

VcpuExit SoftVcpu::run() {
    if (prepared_ != std::this_thread::get_id()) {
        prepare_thread();
    }
    exit_ = {};
    vm_.safe_points().enter(safe_point_);
    paravirt_.refresh_clock(false);
    while (step() == Next::Continue) {
    }
    save_vector_state(*cpu_);
    vm_.safe_points().leave(safe_point_);
    return exit_;
}

SoftVcpu::Next SoftVcpu::leave(ExitReason reason, std::string detail) {
    exit_ = {reason, std::move(detail)};
    return Next::Exit;
}

SoftVcpu::Next SoftVcpu::step() {
    CpuState& cpu = *cpu_;
    const std::uint32_t bits = cpu.request.load(std::memory_order_acquire);
    if (bits != 0 && serve_requests(bits) == Next::Exit) {
        return Next::Exit;
    }
    if (activity_ != x86::RunState::Running) {
        sleep();
        return Next::Continue;
    }
    if (cpu.exception.pending) {
        return after(deliver_exception(cpu));
    }
    if (const auto delivered = deliver_pending()) {
        return *delivered;
    }
    if (cpu.halted) {
        if (unhalted_.exchange(false, std::memory_order_seq_cst)) {
            cpu.halted = false;
        } else {
            sleep();
        }
        return Next::Continue;
    }
    return execute();
}

SoftVcpu::Next SoftVcpu::serve_requests(std::uint32_t bits) {
    CpuState& cpu = *cpu_;
    // acq_rel: what was done before a bit was set is seen after it is taken.
    cpu.request.fetch_and(~bits, std::memory_order_acq_rel);
    if ((bits & Request::kExclusive) != 0) {
        vm_.safe_points().poll(safe_point_);
    }
    if ((bits & Request::kFlushTlb) != 0) {
        finish_pending_rewrite(cpu);
    }
    if ((bits & Request::kTimer) != 0) {
        apic_.timer_expired();
        paravirt_.account_steal();  // the guest looks at it in its tick
    }
    if ((bits & Request::kNmi) != 0) {
        take_nmis();
    }
    if ((bits & Request::kInit) != 0) {
        take_init();
    }
    if ((bits & Request::kSipi) != 0) {
        take_sipi();
    }
    // Last: a state that is saved now has everything else taken.
    if ((bits & Request::kExit) != 0) {
        return leave(ExitReason::Interrupted);
    }
    return Next::Continue;
}

SoftVcpu::Next SoftVcpu::after(StepResult result) {
    return result == StepResult::TripleFault ? leave(ExitReason::TripleFault) : Next::Continue;
}

// Delivers an NMI or a maskable interrupt if one is due. If one waits, notes in interrupt_window
// for what.
std::optional<SoftVcpu::Next> SoftVcpu::deliver_pending() {
    CpuState& cpu = *cpu_;
    cpu.interrupt_window = 0;
    if (nmis_pending_ != 0) {
        if (cpu.nmi_masked) {
            cpu.interrupt_window = 2;
        } else if (cpu.interrupt_shadow) {
            return step_over_shadow();
        } else {
            --nmis_pending_;
            cpu.nmi_masked = true;
            cpu.halted = false;
            return after(deliver_interrupt(cpu, x86::vector::kNmi));
        }
    }
    const auto vector = apic_.pending_vector();
    const bool external = vm_.external_interrupt() && apic_.accepts_external();
    if (!acknowledged_ && !vector && !external) {
        cpu.interrupt_window |= apic_.blocked_by_priority() ? 2 : 0;
        return std::nullopt;
    }
    if ((cpu.rflags & x86::rflags::kIf) == 0) {
        cpu.interrupt_window |= 1;
        return std::nullopt;
    }
    if (cpu.interrupt_shadow) {
        return step_over_shadow();
    }
    interrupts_.fetch_add(1, std::memory_order_relaxed);
    note_interrupt(cpu);
    cpu.halted = false;
    if (acknowledged_) {
        return after(deliver_interrupt(cpu, *std::exchange(acknowledged_, std::nullopt)));
    }
    if (external) {
        return after(deliver_interrupt(cpu, vm_.io->acknowledge_external_interrupt()));
    }
    apic_.acknowledge(*vector);
    return after(deliver_interrupt(cpu, *vector));
}

// The one instruction after STI or MOV SS, with an interrupt waiting behind it.
SoftVcpu::Next SoftVcpu::step_over_shadow() {
    if (cpu_->halted) {
        cpu_->interrupt_shadow = false;  // the instruction was HLT
        return Next::Continue;
    }
    const StepResult result = interpret_one(*cpu_);
    save_vector_state(*cpu_);
    return after(result);
}

SoftVcpu::Next SoftVcpu::execute() {
    const ExecResult result = executor_->run(*cpu_);
    save_vector_state(*cpu_);
    return result == ExecResult::TripleFault ? leave(ExitReason::TripleFault) : Next::Continue;
}

// Sleeps until a request bit is set or the APIC timer is due.
void SoftVcpu::sleep() {
    CpuState& cpu = *cpu_;
    const std::uint64_t deadline = apic_.deadline();
    if (cpu.request.load(std::memory_order_acquire) != 0) {
        return;
    }
    vm_.timers().disarm(config_.index);
    paravirt_.sleeping();
    vm_.safe_points().leave(safe_point_);
    sleeping_.store(true, std::memory_order_seq_cst);
    while (cpu.request.load(std::memory_order_seq_cst) == 0) {
        if (deadline != kNoDeadline && monotonic_ns() >= deadline) {
            cpu.request.fetch_or(Request::kTimer, std::memory_order_relaxed);
            break;
        }
        futex_wait(cpu.request, 0, deadline);
    }
    sleeping_.store(false, std::memory_order_seq_cst);
    vm_.safe_points().enter(safe_point_);
    wake_up();
}

void SoftVcpu::wake_up() {
    if (const std::uint64_t deadline = apic_.deadline(); deadline != kNoDeadline) {
        vm_.timers().arm(config_.index, deadline);
    }
    if (paravirt_.awake()) {
        flush_tlb_all(*cpu_);
    }
}

// One NMI goes to its handler at once and one more is latched meanwhile; those that find both
// places taken are lost. Two that arrive between two instructions, which a real processor would
// take one by one, are both kept.
void SoftVcpu::take_nmis() {
    const std::uint32_t most = cpu_->nmi_masked ? 1 : 2;
    nmis_pending_ = std::min(
        most, nmis_pending_ + std::min(nmis_arrived_.exchange(0, std::memory_order_relaxed), 2U));
}

// SDM 3A, 10.4.7.3 and table 9-1: registers as after reset, but the TSC, MSRs, caches' mode bits
// and vector state stay.
void SoftVcpu::take_init() {
    CpuState& cpu = *cpu_;
    acknowledged_.reset();
    const x86::ArchState fresh = x86::ArchState::power_on(config_.apic_id, config_.bootstrap);
    for (std::uint32_t i = 0; i < 16; ++i) {
        cpu.gpr[i] = fresh.gpr[i];
    }
    cpu.gpr[x86::Rdx] = config_.cpuid.find(1, 0).eax;
    cpu.rip = fresh.rip;
    cpu.rflags = fresh.rflags;
    for (std::uint32_t i = 0; i < 6; ++i) {
        cpu.segments[i] = fresh.segments[i];
    }
    cpu.ldtr = fresh.ldtr;
    cpu.tr = fresh.tr;
    cpu.gdtr = fresh.gdtr;
    cpu.idtr = fresh.idtr;
    const std::uint64_t cache_mode = x86::cr0::kCd | x86::cr0::kNw;
    cpu.cr0 = (fresh.cr0 & ~cache_mode) | (cpu.cr0 & cache_mode);
    cpu.cr2 = cpu.cr3 = cpu.cr4 = 0;
    cpu.efer = 0;
    for (std::uint64_t& reg : cpu.dr) {
        reg = 0;
    }
    cpu.dr6 = fresh.dr6;
    cpu.dr7 = fresh.dr7;
    cpu.exception = {};
    cpu.interrupt_shadow = cpu.nmi_masked = cpu.halted = false;
    apic_.reset(true);
    flush_tlb_all(cpu);
    update_mode(cpu);
    privilege_changed(cpu);
    activity_ = config_.bootstrap ? x86::RunState::Running : x86::RunState::WaitForSipi;
}

void SoftVcpu::take_sipi() {
    CpuState& cpu = *cpu_;
    if (activity_ != x86::RunState::WaitForSipi) {
        return;  // ignored, as by a processor that runs
    }
    const std::uint32_t vector = apic_.sipi_vector();
    Segment& cs = cpu.segments[x86::Cs];
    cs.selector = static_cast<std::uint16_t>(vector << 8);
    cs.base = static_cast<std::uint64_t>(vector) << 12;
    cpu.rip = 0;
    activity_ = x86::RunState::Running;
    update_mode(cpu);
}

VcpuCounters SoftVcpu::counters() const {
    VcpuCounters counters;
    counters.instructions = __atomic_load_n(&cpu_->instructions, __ATOMIC_RELAXED);
    counters.blocks_translated = executor_ != nullptr ? executor_->blocks_translated() : 0;
    counters.direct_runs = executor_ != nullptr ? executor_->direct_runs() : 0;
    counters.io_exits = __atomic_load_n(&mmu_->device_accesses, __ATOMIC_RELAXED);
    counters.interrupts = interrupts_.load(std::memory_order_relaxed);
    return counters;
}

}  // namespace strata::engine::soft
